//! Figures for people.

use std::fmt::Write as _;

use super::{Report, live};

/// Tables, under a line that says where they were measured.
pub(super) fn text(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "{} x {}, Linux {}, load {} before; {}, {}\n",
        machine.processors, machine.processor, machine.kernel, machine.load, machine.revision, machine.date
    );
    let rows = report.programs.iter().map(|figure| {
        let ratio = figure.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2} x"));
        let spread = format!("{:.0}-{:.0}", figure.least_ns, figure.most_ns);
        [figure.case.clone(), format!("{:.0}", figure.median_ns), spread, ratio]
    });
    if !report.programs.is_empty() {
        let head = format!("one packet, net, {} rounds", report.rounds);
        text += "\n";
        text += &columns([&head, "ns", "spread", "of its floor"], rows.collect());
    }
    if !report.live.is_empty() {
        text += &live_text(report);
    }
    if !report.agent.is_empty() {
        text += "\n";
        text += &super::agent::table(&report.agent);
    }
    if !report.against.is_empty() {
        let rows = report.against.iter().map(|both| {
            let number = |ns: f64| format!("{ns:.0}");
            [both.case.clone(), number(both.before_ns), number(both.now_ns), format!("{:.2}", both.ratio)]
        });
        text += "\n";
        text += &columns(["against the other revision", "then, ns", "now, ns", "ratio"], rows.collect());
    }
    text
}

/// Measure by measure, so that what is compared stands together.
fn live_text(report: &Report) -> String {
    let measures = live::distinct(&report.live, |figure| &figure.measure).into_iter();
    let of_measure = |measure| report.live.iter().filter(move |figure| figure.measure == measure);
    let rows = measures.flat_map(of_measure).map(|figure| {
        let [ratio, spread] = figure.shown();
        [format!("{}: {}", figure.measure, figure.configuration), figure.rate(), ratio, spread]
    });
    let head = format!("live, {} rounds beside plain forwarding", report.live_rounds);
    "\n".to_owned() + &columns([&head, "a second", "of plain", "spread"], rows.collect())
}

/// Four columns, the first to the left and the others to the right.
fn columns(head: [&str; 4], rows: Vec<[String; 4]>) -> String {
    let head = head.map(str::to_owned);
    let width = |at: usize| rows.iter().chain([&head]).map(|row| row[at].chars().count()).max().unwrap_or_default();
    let widths = [0, 1, 2, 3].map(width);
    let mut text = String::new();
    for row in [&head].into_iter().chain(&rows) {
        let _ = write!(text, "{:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(widths).skip(1) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text = text.trim_end().to_owned() + "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 4]| cells.map(str::to_owned);
        let text =
            columns(["a", "ns", "s", "x"], vec![row(["long name", "1", "0-12", ""]), row(["b", "100", "1", "2"])]);
        assert_eq!(text, "a           ns     s  x\nlong name    1  0-12\nb          100     1  2\n");
    }
}
