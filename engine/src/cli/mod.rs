//! The command line: one file for each command.
//!
//! Commands print what a person wants to know, or JSON with `--json`; errors and progress go to
//! standard error. How a command ends is in [`exit`].

mod bench;
pub mod check;
pub mod cluster;
pub mod connect;
mod device;
mod doctor;
pub mod exit;
pub mod format;
mod nvme;
mod quickstart;
mod serve;
mod sim;
pub mod status;
pub mod terminal;
mod transfer;
mod volume;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::{Code, EXIT_CODES, Outcome};

const LONG_ABOUT: &str = "\
A userspace storage engine: replicated, checksummed, one write per byte.

A write travels from the network into registered hugepage memory, from that page to an NVMe queue \
pair and to two followers, and is acknowledged when a majority holds it durably.";

#[derive(Debug, Parser)]
#[command(name = "culvert", version, about, long_about = LONG_ABOUT, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Quickstart(quickstart::QuickstartArgs),
    Format(format::FormatArgs),
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    Serve(serve::ServeArgs),
    #[command(subcommand)]
    Volume(volume::VolumeCommand),
    Status(status::StatusArgs),
    Check(check::CheckArgs),
    Doctor(doctor::DoctorArgs),
    #[command(subcommand)]
    Nvme(nvme::NvmeCommand),
    Bench(bench::BenchArgs),
    Sim(sim::SimArgs),
}

/// Reads the command line, does what it says, and reports failures.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.code == Code::Unread => failure.code.into(),
        Err(failure) => {
            terminal::warn(format_args!("culvert: {:#}", failure.error));
            failure.code.into()
        }
    }
}

fn dispatch(command: Command) -> Outcome {
    match command {
        Command::Quickstart(arguments) => quickstart::run(&arguments),
        Command::Format(arguments) => format::run(&arguments),
        Command::Cluster(command) => cluster::run(command),
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Volume(command) => volume::run(command),
        Command::Check(arguments) => check::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Nvme(command) => nvme::run(&command),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Sim(arguments) => sim::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does_and_shows_an_example() {
        fn check(command: &mut clap::Command, path: &str) {
            assert!(command.get_about().is_some(), "{path} has no description");
            let leaf = command.get_subcommands().count() == 0;
            let help = command.render_long_help().to_string();
            assert!(!leaf || help.contains("Examples:"), "{path} shows no example");
            for inner in command.get_subcommands_mut().filter(|inner| inner.get_name() != "help") {
                let path = format!("{path} {}", inner.get_name());
                check(inner, &path);
            }
        }
        let mut command = Cli::command();
        command.build();
        for inner in command.get_subcommands_mut().filter(|inner| inner.get_name() != "help") {
            let path = inner.get_name().to_owned();
            check(inner, &path);
        }
    }
}
