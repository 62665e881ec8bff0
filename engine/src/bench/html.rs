//! The report: one HTML file that needs nothing else, with a chart for each figure.

use std::fmt::Write;

use super::case::{Row, TransportKind};
use super::result::{CaseResult, Nodes};
use super::table::{count, duration, rows, transports};

const BAR_HEIGHT: f64 = 16.0;
const GROUP_GAP: f64 = 12.0;
const LABEL_WIDTH: f64 = 170.0;
const PLOT_WIDTH: f64 = 560.0;
const VALUE_WIDTH: f64 = 90.0;

/// Colours of the transports, told apart by everybody and in grey.
const COLOURS: [&str; 4] = ["#0f766e", "#d97706", "#4f46e5", "#be123c"];

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2430;--faint:#64748b;--line:#d7dde5;--page:#fbfbf9}\
@media(prefers-color-scheme:dark){:root{--ink:#e5e9ef;--faint:#94a3b8;--line:#334155;--page:#12161c}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);\
max-width:960px;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}p{color:var(--faint)}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
td,th{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--line)}\
.mark{color:#fff;background:#be123c;font-weight:600;padding:.5rem .8rem;border-radius:4px}\
td:first-child,th:first-child{text-align:left}svg text{fill:var(--ink);font-size:12px}\
svg .faint{fill:var(--faint)}.key{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 1em}";

/// One chart: a title, what a bar means, and how long it is.
struct Chart {
    title: &'static str,
    note: &'static str,
    value: fn(&CaseResult) -> Option<f64>,
    text: fn(f64) -> String,
}

const CHARTS: [Chart; 5] = [
    Chart {
        title: "Operations a second",
        note: "longer is better",
        value: |case| Some(case.iops),
        text: count,
    },
    Chart {
        title: "Latency, p50",
        note: "shorter is better; the scale is logarithmic",
        value: |case| Some(case.latency_us.p50),
        text: duration,
    },
    Chart {
        title: "Latency, p99",
        note: "shorter is better; the scale is logarithmic",
        value: |case| Some(case.latency_us.p99),
        text: duration,
    },
    Chart {
        title: "Processor time for an operation",
        note: "all processes, client included; shorter is better",
        value: |case| case.cpu_us_per_operation,
        text: duration,
    },
    Chart {
        title: "Device bytes for a byte of the user",
        note: "one replica, journal and checkpoints included; 1.00 is what cannot be undercut",
        value: |case| case.device_bytes_per_user_byte,
        text: |value| format!("{value:.3}"),
    },
];

/// Renders the report.
#[must_use]
pub fn render(cases: &[CaseResult]) -> String {
    let transports = transports(cases);
    let mut out = String::from(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>culvert bench</title>",
    );
    let _ = write!(out, "<style>{STYLE}</style></head><body>\n<h1>culvert bench</h1>\n");
    out.push_str(&marks(cases));
    out.push_str(&conditions(cases));
    out.push_str("<p>");
    for (index, transport) in transports.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let _ = write!(out, "<span class=\"key\" style=\"background:{colour}\"></span>{transport}");
    }
    out.push_str("</p>\n");
    for chart in &CHARTS {
        if cases.iter().any(|case| (chart.value)(case).is_some()) {
            out.push_str(&render_chart(chart, cases, &transports));
        }
    }
    out.push_str(&figures(cases));
    out.push_str("</body></html>\n");
    out
}

/// What is emulated, so that nobody takes a bar for performance.
fn marks(cases: &[CaseResult]) -> String {
    let marks = cases.first().map(|first| first.conditions.machine.marks()).unwrap_or_default();
    let line = |mark: String| format!("<p class=\"mark\">{}</p>\n", escape(&mark));
    marks.into_iter().map(line).collect()
}

fn conditions(cases: &[CaseResult]) -> String {
    let Some(first) = cases.first() else { return "<p>Nothing was measured.</p>\n".into() };
    let nodes = match first.conditions.nodes {
        Nodes::Processes => "servers in processes of their own",
        Nodes::OneThread => "<strong>servers and client in one thread: not a deployment</strong>",
    };
    let steal = cases.iter().map(|case| case.steal_percent).fold(0.0, f64::max);
    let dropped: u32 = cases.iter().map(|case| case.rounds_dropped).sum();
    format!(
        "<p>{} replicas on {}, {} copysets, {nodes}; median of {} rounds, {dropped} left out. \
         The hypervisor took up to {steal:.1}% of the time; one core copies memory at {:.1} GB/s.\
         </p>\n",
        first.replicas,
        escape(&first.conditions.device),
        first.copysets,
        first.rounds,
        first.memcpy_gb_s
    )
}

fn render_chart(chart: &Chart, cases: &[CaseResult], transports: &[TransportKind]) -> String {
    let logarithmic = chart.note.contains("logarithmic");
    let values: Vec<f64> =
        cases.iter().filter_map(chart.value).filter(|value| *value > 0.0).collect();
    let max = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let min = values.iter().copied().fold(max, f64::min);
    let width = |value: f64| {
        let share = if logarithmic {
            // A tenth of the width for the smallest value, so that every bar is seen.
            0.1 + 0.9 * (value / min).ln() / (max / min).ln().max(f64::MIN_POSITIVE)
        } else {
            value / max
        };
        share.clamp(0.0, 1.0) * PLOT_WIDTH
    };
    let mut bars = String::new();
    let mut y = 4.0;
    for row in rows(cases) {
        let label_y = y + BAR_HEIGHT * 0.8;
        let _ = write!(bars, "<text x=\"0\" y=\"{label_y:.1}\">{}</text>", label(row));
        for (index, &transport) in transports.iter().enumerate() {
            let case = cases.iter().find(|case| case.transport == transport && case.row() == row);
            if let Some(value) = case.and_then(chart.value) {
                let text = (chart.text)(value);
                bars.push_str(&bar(y, width(value), COLOURS[index % COLOURS.len()], &text));
            }
            y += BAR_HEIGHT;
        }
        y += GROUP_GAP;
    }
    let total = LABEL_WIDTH + PLOT_WIDTH + VALUE_WIDTH;
    format!(
        "<h2>{}</h2><p>{}</p>\n<div class=\"wide\"><svg role=\"img\" aria-label=\"{}\" \
         width=\"{total}\" height=\"{y:.0}\" viewBox=\"0 0 {total} {y:.0}\">{bars}</svg></div>\n",
        chart.title, chart.note, chart.title
    )
}

fn bar(y: f64, width: f64, colour: &str, text: &str) -> String {
    let height = BAR_HEIGHT - 3.0;
    let text_x = LABEL_WIDTH + width + 6.0;
    let text_y = y + BAR_HEIGHT * 0.75;
    format!(
        "<rect x=\"{LABEL_WIDTH}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" rx=\"2\" \
         fill=\"{colour}\"/><text class=\"faint\" x=\"{text_x:.1}\" y=\"{text_y:.1}\">{text}</text>"
    )
}

fn figures(cases: &[CaseResult]) -> String {
    let mut out = String::from(
        "<h2>All figures</h2>\n<div class=\"wide\"><table><tr><th>case</th><th>transport</th>\
         <th>IOPS</th><th>p50</th><th>p99</th><th>p99.9</th><th>CPU us</th><th>device bytes</th>\
         <th>batch</th><th>allocations</th><th>system calls</th></tr>\n",
    );
    let optional =
        |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
    for case in cases {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{}</td><td>{}</td><td>{:.3}</td><td>{:.3}</td></tr>",
            label(case.row()),
            case.transport,
            count(case.iops),
            duration(case.latency_us.p50),
            duration(case.latency_us.p99),
            duration(case.latency_us.p999),
            optional(case.cpu_us_per_operation),
            optional(case.device_bytes_per_user_byte),
            optional(case.batch_mean),
            case.allocations_per_operation,
            case.syscalls_per_operation
        );
    }
    out.push_str("</table></div>\n");
    out
}

fn label(row: Row) -> String {
    format!("{} {} x{}", row.pattern, row.block_size, row.depth)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::case::Pattern;
    use super::super::result::tests::sample;
    use super::*;

    #[test]
    fn a_report_is_one_file_with_a_bar_for_each_case() {
        let mut cases = vec![
            sample(TransportKind::Shm, Pattern::Randwrite, 1, 50_000.0),
            sample(TransportKind::Tcp, Pattern::Randwrite, 1, 12_500.0),
            sample(TransportKind::Shm, Pattern::Randread, 1, 80_000.0),
        ];
        cases[0].conditions.device = "uring:/x?a=<b>&c".into();
        let html = render(&cases);
        assert_eq!(html.matches("<svg").count(), CHARTS.len());
        assert_eq!(html.matches("<rect").count(), 4 * 3 + 2, "reads have no device bytes");
        assert!(html.contains("uring:/x?a=&lt;b&gt;&amp;c"));
        assert!(!html.contains("class=\"mark\""), "nothing is emulated");
        assert!(!html.contains("http"), "nothing is fetched");
        assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
        assert!(render(&[]).contains("Nothing was measured"));
    }

    #[test]
    fn one_case_alone_still_has_a_bar() {
        let html = render(&[sample(TransportKind::Shm, Pattern::Write, 128, 1000.0)]);
        assert!(!html.contains("NaN"), "{html}");
    }
    #[test]
    fn what_is_emulated_is_said_before_any_figure() {
        let mut case = sample(TransportKind::Rdma, Pattern::Write, 128, 1000.0);
        case.conditions.machine.emulated = Some("QEMU TCG");
        let html = render(&[case]);
        let mark = html.find("<p class=\"mark\">EMULATED (QEMU TCG)").expect("a mark");
        assert!(html.find("<svg").is_some_and(|figure| mark < figure), "{html}");
    }
}
