//! Kernels to test on: Debian's, downloaded and unpacked into the cache, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail, ensure};

use super::{Part, Step, cache, packages};
use crate::progress::{self, command};

/// Debian's suites of the main archive that carry kernels, and those of its security archive.
const SUITES: [&str; 5] = ["bookworm", "bookworm-backports", "trixie", "trixie-backports", "sid"];
const SECURITY_SUITES: [&str; 2] = ["bookworm-security", "trixie-security"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// For virtual machines: small, and with everything the tests need.
const FLAVOUR: &str = "-cloud-amd64";
/// What is looked up this recently is not looked up again.
const FRESH: Duration = Duration::from_hours(7 * 24);

/// The kernels that `cargo xtask test` runs on unless told otherwise, beside the machine's own.
pub(crate) const DEFAULT: [Series; 2] = [Series::Numbered(6, 1), Series::Latest];

pub(super) const STEP: Step = Step {
    name: "test kernels",
    part: Part::Kernels,
    present: || {
        let found: Option<Vec<Kernel>> = DEFAULT.into_iter().map(|series| newest(series, cached())).collect();
        found.map(|kernels| kernels.iter().map(|kernel| kernel.release.as_str()).collect::<Vec<_>>().join(" "))
    },
    how: || format!("downloads Debian's oldest and newest kernels and unpacks them in {}", root().display()),
    about: || 60,
    install: || DEFAULT.into_iter().try_for_each(|series| provide(series).map(drop)),
};

/// Which kernel: `6.1`, or `latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Series {
    /// The newest of this series.
    Numbered(u32, u32),
    /// The newest of all.
    Latest,
}

impl FromStr for Series {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        let numbers = text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        let (major, minor) = numbers.with_context(|| format!("`{text}` is no kernel: write 6.1, 6.12 or latest"))?;
        ensure!((major, minor) >= (6, 1), "Linux {text} is too old: sgp needs 6.1 or newer");
        Ok(Self::Numbered(major, minor))
    }
}

/// A kernel, by what `uname -r` will say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// Its release.
    pub(crate) release: String,
}

impl Kernel {
    /// Where it is unpacked.
    pub(crate) fn directory(&self) -> PathBuf {
        root().join(&self.release)
    }

    /// The numbers in its release, without those of the flavour: they order kernels, and the first two name the series.
    fn numbers(&self) -> Vec<u32> {
        let version = self.release.strip_suffix(FLAVOUR).unwrap_or(&self.release);
        version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
    }

    fn is_of(&self, series: Series) -> bool {
        match series {
            Series::Latest => true,
            Series::Numbered(major, minor) => self.numbers().starts_with(&[major, minor]),
        }
    }
}

fn root() -> PathBuf {
    cache::root().join("kernels")
}

fn newest(series: Series, kernels: Vec<Kernel>) -> Option<Kernel> {
    kernels.into_iter().filter(|kernel| kernel.is_of(series)).max_by_key(Kernel::numbers)
}

/// What is unpacked already.
fn cached() -> Vec<Kernel> {
    let names = fs::read_dir(root()).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let names = names.filter_map(|name| name.into_string().ok()).filter(|name| name.ends_with(FLAVOUR));
    names.map(|release| Kernel { release }).collect()
}

/// Unpacks the newest kernel of a series unless that has been done. Where Debian cannot be asked, an older one of the
/// series that is there will do.
///
/// # Errors
/// Where there is none and none can be had.
pub(crate) fn provide(series: Series) -> Result<Kernel> {
    let offered = Archive::opened().map(|archive| (newest(series, archive.kernels()), archive));
    match (offered, newest(series, cached())) {
        (Ok((Some(kernel), archive)), _) => {
            if !kernel.directory().exists() {
                archive.unpack(&kernel)?;
            }
            Ok(kernel)
        }
        (Err(error), Some(kernel)) => {
            println!(
                "kernel {}: used as it is, since Debian cannot be asked for a newer one: {error:#}",
                kernel.release
            );
            Ok(kernel)
        }
        (Ok((None, _)), Some(kernel)) => Ok(kernel),
        (Ok((None, _)), None) => bail!("Debian has no kernel {series:?} in {}", SUITES.join(", ")),
        (Err(error), None) => Err(error).with_context(|| {
            format!(
                "no kernel to test on; where Debian cannot be reached, unpack its packages (`dpkg -x`) as {}/RELEASE",
                root().display()
            )
        }),
    }
}

/// Debian's archive, by package lists of our own: the machine's are for its own suite.
struct Archive {
    lists: PathBuf,
}

impl Archive {
    /// # Errors
    /// Where this machine's apt knows no Debian mirror, or the mirror does not answer.
    fn opened() -> Result<Self> {
        let archive = Self { lists: root().join("apt") };
        if !archive.is_fresh() {
            archive.refresh().context("reading Debian's package lists")?;
        }
        Ok(archive)
    }

    fn stamp(&self) -> PathBuf {
        self.lists.join("refreshed")
    }

    fn is_fresh(&self) -> bool {
        let age = self.stamp().metadata().and_then(|stamp| stamp.modified()).ok().and_then(|time| time.elapsed().ok());
        age.is_some_and(|age| age < FRESH)
    }

    fn refresh(&self) -> Result<()> {
        let sources = sources()?;
        for directory in ["lists/partial", "archives/partial", "sources"] {
            let directory = self.lists.join(directory);
            fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
        }
        fs::write(self.lists.join("sources/debian.list"), sources).context("the list of sources cannot be written")?;
        let step = progress::Step {
            name: "package lists",
            how: "apt-get reads what kernels Debian has",
            about: Duration::from_secs(15),
            silent: Duration::from_secs(3),
        };
        // One suite that has moved away does not take the others with it; which kernels there are then shows.
        step.run(|| command::output(&mut self.apt("apt-get", &["update"])))?;
        ensure!(!self.kernels().is_empty(), "none of {} lists a kernel", SUITES.join(", "));
        fs::write(self.stamp(), "").context("the time cannot be noted")
    }

    fn apt(&self, program: &str, arguments: &[&str]) -> Command {
        let mut apt = Command::new(program);
        let ours = |option: &str, path: &str| format!("{option}={}", self.lists.join(path).display());
        apt.args(["-q", "-o", "Dir::Etc::sourcelist=/dev/null", "-o", &ours("Dir::Etc::sourceparts", "sources")]);
        apt.args(["-o", &ours("Dir::State::lists", "lists"), "-o", &ours("Dir::Cache", ".")]);
        // What is downloaded goes to a directory of this user's, where apt's own user may not write.
        apt.args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none"]).args(arguments).env("LC_ALL", "C");
        apt
    }

    /// Names of packages that match a pattern.
    fn packages(&self, pattern: &str) -> Vec<String> {
        let listed = command::answer(&mut self.apt("apt-cache", &["search", "--names-only", pattern]));
        let names = listed.unwrap_or_default();
        names.lines().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect()
    }

    fn kernels(&self) -> Vec<Kernel> {
        let names = self.packages(&format!("^linux-image-[0-9].*{FLAVOUR}$"));
        names.iter().filter_map(|name| kernel_of(name)).collect()
    }

    /// From Linux 6.19 on, image, modules and the rest are packages of their own.
    fn unpack(&self, kernel: &Kernel) -> Result<()> {
        let release = kernel.release.replace('+', "\\+");
        let packages = self.packages(&format!("^linux-(image|binary|modules|base)-{release}$"));
        ensure!(!packages.is_empty(), "Debian lists linux-image-{} but does not carry it", kernel.release);
        let name = format!("kernel {}", kernel.release);
        let how = format!("downloads and unpacks {}", packages.join(" "));
        let step =
            progress::Step { name: &name, how: &how, about: Duration::from_secs(25), silent: Duration::from_secs(1) };
        step.run(|| cache::fill(&kernel.directory(), |part| self.unpack_into(part, &packages, &kernel.release)))
    }

    fn unpack_into(&self, part: &Path, packages: &[String], release: &str) -> Result<()> {
        let mut download = self.apt("apt-get", &["download"]);
        command::quietly(download.args(packages).current_dir(part))?;
        for file in fs::read_dir(part).context("what was downloaded cannot be listed")?.flatten() {
            command::quietly(Command::new("dpkg").arg("-x").arg(file.path()).arg(part))?;
            fs::remove_file(file.path()).context("a package cannot be removed after it was unpacked")?;
        }
        command::quietly(Command::new(tool("depmod")).arg("-b").arg(modules_root(part)).arg(release))
    }
}

/// Where `lib/modules` is below: newer packages have it in `usr`.
pub(crate) fn modules_root(unpacked: &Path) -> PathBuf {
    let merged = unpacked.join("usr");
    if merged.join("lib/modules").exists() { merged } else { unpacked.to_owned() }
}

/// A program for administrators, wherever it is.
fn tool(name: &str) -> PathBuf {
    command::find(name).unwrap_or_else(|| name.into())
}

/// The kernel of a package `linux-image-RELEASE`; none for packages that only point at another.
fn kernel_of(package: &str) -> Option<Kernel> {
    let kernel = Kernel { release: package.strip_prefix("linux-image-")?.to_owned() };
    (kernel.numbers().len() > 2).then_some(kernel)
}

/// Lines for apt with every suite at the mirrors this machine is set up for.
fn sources() -> Result<String> {
    ensure!(command::find("apt-get").is_some(), "this machine has no apt-get");
    packages::refresh()?;
    let format = "$(ORIGIN)|$(LABEL)|$(REPO_URI)";
    let targets = command::answer(Command::new("apt-get").args(["indextargets", "--format", format]));
    let lines = sources_from(&targets.unwrap_or_default());
    ensure!(!lines.is_empty(), "none of this machine's apt sources is Debian");
    Ok(lines)
}

fn sources_from(targets: &str) -> String {
    let mirror = |label: &str| {
        let of_debian = targets.lines().filter_map(|line| line.strip_prefix("Debian|"));
        of_debian.filter_map(|line| line.split_once('|')).find(|(found, _)| *found == label).map(|(_, uri)| uri)
    };
    let archives = [(mirror("Debian"), &SUITES[..]), (mirror("Debian-Security"), &SECURITY_SUITES[..])];
    let lines = archives.into_iter().flat_map(|(uri, suites)| {
        let line = move |suite: &&str| uri.map(|uri| format!("deb [signed-by={KEYRING}] {uri} {suite} main\n"));
        suites.iter().filter_map(line)
    });
    lines.collect()
}

#[cfg(test)]
mod tests;
