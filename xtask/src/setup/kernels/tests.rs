use super::*;

fn kernels(names: &[&str]) -> Vec<Kernel> {
    names.iter().filter_map(|name| kernel_of(name)).collect()
}

#[test]
fn the_newest_of_a_series_is_found_by_numbers_and_packages_that_point_elsewhere_are_not_taken() {
    let kernels = kernels(&[
        "linux-image-6.1.0-9-cloud-amd64",
        "linux-image-6.1.0-56-cloud-amd64",
        "linux-image-6.12-cloud-amd64",
        "linux-image-6.12.90+deb12-cloud-amd64",
        "linux-image-6.12.90+deb12.1-cloud-amd64",
        "linux-image-7.3.4+deb13-cloud-amd64",
    ]);
    let newest = |series| newest(series, kernels.clone()).map(|kernel| kernel.release);
    assert_eq!(newest(Series::Numbered(6, 1)).as_deref(), Some("6.1.0-56-cloud-amd64"));
    assert_eq!(newest(Series::Numbered(6, 12)).as_deref(), Some("6.12.90+deb12.1-cloud-amd64"));
    assert_eq!(newest(Series::Latest).as_deref(), Some("7.3.4+deb13-cloud-amd64"));
    assert_eq!(newest(Series::Numbered(6, 6)), None);
}

#[test]
fn a_kernel_is_named_by_two_numbers_or_as_the_latest() {
    assert_eq!("6.12".parse::<Series>().ok(), Some(Series::Numbered(6, 12)));
    assert_eq!("latest".parse::<Series>().ok(), Some(Series::Latest));
    assert!("6".parse::<Series>().is_err() && "5.10".parse::<Series>().is_err());
}

#[test]
fn suites_are_asked_for_at_the_mirrors_that_are_configured() {
    let targets = "Other|Other|http://other/\nDebian|Debian-Security|http://m/sec/\nDebian|Debian|http://m/deb/\n";
    let lines = sources_from(targets);
    assert!(lines.contains("] http://m/deb/ sid main\n") && lines.contains("] http://m/sec/ bookworm-security main"));
    assert_eq!(sources_from("Ubuntu|Ubuntu|http://m/ubuntu/"), "");
}
