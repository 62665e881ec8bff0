//! `culvert doctor`: what this machine offers, and what would make it better.

use clap::Args;
use culvert::doctor::{Counts, Finding, Machine, Verdict, examine};
use serde_json::json;

use super::exit::{Code, Failure, Outcome};
use super::terminal::{Paint, print, say};

const EXAMPLES: &str = "\
Examples:
  culvert doctor
  culvert doctor --json | jq -r '.findings[] | select(.verdict == \"bad\") | .mend'
  culvert doctor --json | jq '.counts'

Each line is good; bad, with the command or kernel argument that mends it below; or unknown, with
the reason or the way to find out. Bad is what costs speed or a feature: Culvert runs without
hugepages, on shared cores and over tcp:// alone. That a machine has no RDMA device, NVMe or IOMMU
is unknown, not bad.

Nothing is changed: files of /sys, /proc, /dev and /etc are looked at, and no device is opened.
Limits are those of this user and this shell: run it as the node runs. Exits with 1 when something
is bad.";

/// Columns of a line at most, except for commands, which stay whole.
const WIDTH: usize = 96;

/// Columns before the text of a finding: two, the verdict, and one.
const INDENT: usize = 10;

/// Checks this machine for RDMA, NVMe and memory, and says what mends it
///
/// Reads which devices, ports, addresses, drivers and limits the machine has, and judges each for
/// Culvert. Changes nothing.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DoctorArgs {
    /// Print JSON: an object with `findings` and `counts`
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: &DoctorArgs) -> Outcome {
    let findings = examine(&Machine::here());
    let counts = Counts::of(&findings);
    if arguments.json {
        say!("{}", json!({ "findings": findings, "counts": counts }));
    } else {
        print(format_args!("{}", render(&findings, Paint::of_stdout())))?;
    }
    if counts.bad > 0 {
        let error = anyhow::anyhow!("{} of {} findings are bad", counts.bad, findings.len());
        return Err(Failure { code: Code::Failed, error });
    }
    Ok(())
}

/// The report: a heading for each area, a line for each finding, and the counts.
fn render(findings: &[Finding], paint: Paint) -> String {
    let mut text = String::new();
    let mut area = None;
    for finding in findings {
        if area != Some(finding.area) {
            area = Some(finding.area);
            text += &paint.strong(&finding.area.to_string());
            text.push('\n');
        }
        // Painted after it has been padded: colours have no width.
        let verdict = match finding.verdict {
            Verdict::Good => paint.good("good   "),
            Verdict::Bad { .. } => paint.bad("bad    "),
            Verdict::Unknown { .. } => "unknown".to_owned(),
        };
        let what = format!("{}: {}", finding.subject, finding.what);
        text += &format!("  {verdict} {}\n", wrapped(&what, INDENT));
        match &finding.verdict {
            Verdict::Good => {}
            Verdict::Bad { mend } => {
                text += &format!("{:INDENT$}  {}\n", "", paint.strong(mend));
            }
            Verdict::Unknown { why } => {
                text += &format!("{:INDENT$}  {}\n", "", wrapped(why, INDENT + 2));
            }
        }
    }
    let Counts { good, bad, unknown } = Counts::of(findings);
    text += &format!("{good} good, {bad} bad, {unknown} unknown\n");
    text
}

/// Words in lines of [`WIDTH`] columns, all but the first indented.
fn wrapped(text: &str, indent: usize) -> String {
    let mut out = String::new();
    let mut column = indent;
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if out.is_empty() {
        } else if column + 1 + width > WIDTH {
            out += &format!("\n{:indent$}", "");
            column = indent;
        } else {
            out.push(' ');
            column += 1;
        }
        out += word;
        column += width;
    }
    out
}

#[cfg(test)]
mod tests {
    use culvert::doctor::Area;

    use super::*;

    fn finding(verdict: Verdict, what: &str) -> Finding {
        Finding { area: Area::Memory, subject: "pages".into(), verdict, what: what.into() }
    }

    #[test]
    fn each_verdict_has_its_line_and_its_advice() {
        let findings = [
            finding(Verdict::Good, "many"),
            finding(Verdict::Bad { mend: "echo 160 > pages".into() }, "none"),
            finding(Verdict::Unknown { why: "there is no /sys".into() }, "not told"),
        ];
        let expected = "\
memory
  good    pages: many
  bad     pages: none
            echo 160 > pages
  unknown pages: not told
            there is no /sys
1 good, 1 bad, 1 unknown
";
        assert_eq!(render(&findings, Paint::plain()), expected);
    }

    #[test]
    fn long_text_is_wrapped_and_commands_are_not() {
        let long = "words ".repeat(60);
        let bad = finding(Verdict::Bad { mend: "x".repeat(200) }, &long);
        let text = render(&[bad], Paint::plain());
        let (commands, lines): (Vec<&str>, Vec<&str>) = text.lines().partition(|l| l.contains('x'));
        assert_eq!(commands.len(), 1);
        assert!(lines.iter().all(|line| line.len() <= WIDTH), "{text}");
        assert!(lines.len() > 4, "{text}");
        assert_eq!(text.matches("words").count(), 60);
    }
}
