//! `culvert nvme`: who drives the NVMe controllers of this machine, and giving one to `vfio:`.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::{Args, Subcommand};
use culvert::binding::{self, BindingError, Controller, Step};
use culvert::config::ByteSize;
use culvert::doctor::Machine;
use serde_json::json;

use super::exit::{Outcome, Refuse, refuse};
use super::terminal::{Paint, print, say};

/// Lists NVMe controllers; gives them to `vfio:` devices, and back to the kernel
///
/// A controller belongs to the kernel, which makes disks of it, or to vfio-pci, through which one
/// program drives it.
#[derive(Debug, Subcommand)]
pub enum NvmeCommand {
    List(ListArgs),
    Bind(BindArgs),
    Unbind(UnbindArgs),
}

const LIST_EXAMPLES: &str = "\
Examples:
  culvert nvme list
  culvert nvme list --json | jq -r '.controllers[] | select(.driver == \"vfio-pci\") | .uri'

Nothing is changed and no device is opened. Which process has a controller open through VFIO is told
as far as this user may look.";

/// Lists the NVMe controllers of this machine, who drives them, and what uses their disks
#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub struct ListArgs {
    /// Print JSON: an object with `controllers`
    #[arg(long)]
    json: bool,
}

const BIND_EXAMPLES: &str = "\
Examples:
  culvert nvme bind --dry-run 0000:5e:00.0
  sudo culvert nvme bind 0000:5e:00.0
  sudo culvert nvme bind --yes /dev/nvme0n1 nvme1

The kernel's disks of the controller go away until `culvert nvme unbind`; what is on them stays. Where
one of them is mounted, is part of something, or has partitions, you are asked first; a script says
--yes. Exits with 3 where the controller cannot be used through VFIO.";

/// Gives controllers from the kernel to vfio-pci, for `vfio:` devices
#[derive(Debug, Args)]
#[command(after_help = BIND_EXAMPLES)]
pub struct BindArgs {
    /// PCI addresses, or the kernel's names: 0000:5e:00.0, nvme0, /dev/nvme0n1
    #[arg(required = true)]
    controllers: Vec<String>,
    /// Print the commands that would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Take a controller whose disks are in use or have partitions, without asking
    #[arg(long)]
    yes: bool,
}

const UNBIND_EXAMPLES: &str = "\
Examples:
  culvert nvme unbind --dry-run 0000:5e:00.0
  sudo culvert nvme unbind 0000:5e:00.0

Refused, with 3, while a process has the controller open: stop that first.";

/// Gives controllers back to the kernel, which makes disks of them again
#[derive(Debug, Args)]
#[command(after_help = UNBIND_EXAMPLES)]
pub struct UnbindArgs {
    /// PCI addresses: 0000:5e:00.0
    #[arg(required = true)]
    controllers: Vec<String>,
    /// Print the commands that would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub fn run(command: &NvmeCommand) -> Outcome {
    let machine = Machine::here();
    match command {
        NvmeCommand::List(arguments) => list(&machine, arguments),
        NvmeCommand::Bind(arguments) => bind(&machine, arguments),
        NvmeCommand::Unbind(arguments) => unbind(&machine, arguments),
    }
}

fn list(machine: &Machine, arguments: &ListArgs) -> Outcome {
    let controllers = binding::controllers(machine);
    if arguments.json {
        let with_uri = |controller: &Controller| {
            let mut value = json!(controller);
            value["uri"] = json!(controller.uri());
            value
        };
        let list: Vec<_> = controllers.iter().map(with_uri).collect();
        say!("{}", json!({ "controllers": list }));
        return Ok(());
    }
    print(format_args!("{}", render(&controllers, Paint::of_stdout())))
}

/// A line for each controller, and one for each of its disks.
fn render(controllers: &[Controller], paint: Paint) -> String {
    if controllers.is_empty() {
        return "no NVMe controller on PCI\n".to_owned();
    }
    let mut text = String::new();
    for controller in controllers {
        let driver = controller.driver.as_deref().unwrap_or("no driver");
        let mut words = vec![driver.to_owned()];
        words.extend(controller.uri().map(|uri| format!("for {uri}")));
        let name = format!("{} {}", controller.model, controller.serial);
        words.push(name.trim().to_owned());
        words.push(controller.iommu_group.as_ref().map_or_else(
            || "no IOMMU group: not for `vfio:`".to_owned(),
            |group| format!("IOMMU group {group}"),
        ));
        if !controller.group_mates.is_empty() {
            words.push(format!("shared with {}", controller.group_mates.join(", ")));
        }
        words.extend(controller.process.map(|id| format!("process {id} has it open")));
        words.retain(|word| !word.is_empty());
        text += &format!("{}  {}\n", paint.strong(&controller.address), words.join(", "));
        for disk in &controller.disks {
            let user = disk.user.as_deref().unwrap_or("not in use");
            let bytes = ByteSize(disk.bytes);
            let (name, size, block) = (&disk.name, bytes.approximate(), disk.block_size);
            text += &format!("  {name}: {size}, blocks of {block}, {user}\n");
        }
    }
    text
}

fn bind(machine: &Machine, arguments: &BindArgs) -> Outcome {
    let found = arguments.controllers.iter().map(|name| binding::find(machine, name));
    let mut controllers = found.collect::<Result<Vec<_>, _>>().refuse()?;
    let addresses: Vec<String> = controllers.iter().map(|one| one.address.clone()).collect();
    for controller in &mut controllers {
        // A group changes hands as a whole: those that go with it are not in its way.
        controller.group_mates.retain(|mate| !addresses.contains(mate));
        let steps = binding::to_vfio(machine, controller).refuse()?;
        let users = controller.users();
        let takes = !steps.is_empty() && !arguments.dry_run && !arguments.yes;
        if takes && !users.is_empty() && !agreed(controller, &users)? {
            return Err(refuse!("{} stays with the kernel", controller.address));
        }
        change_hands(machine, controller, &steps, "vfio-pci", arguments.dry_run)?;
    }
    Ok(())
}

fn unbind(machine: &Machine, arguments: &UnbindArgs) -> Outcome {
    for name in &arguments.controllers {
        let controller = binding::find(machine, name).refuse()?;
        let steps = binding::to_kernel(machine, &controller).refuse()?;
        change_hands(machine, &controller, &steps, "nvme", arguments.dry_run)?;
    }
    Ok(())
}

/// Asks a person; a script is refused.
fn agreed(controller: &Controller, users: &[String]) -> Outcome<bool> {
    let (address, users) = (&controller.address, users.join("; "));
    if !io::stdin().is_terminal() {
        return Err(refuse!("{address} is in use: {users}; --yes takes it all the same"));
    }
    let mut err = io::stderr();
    write!(err, "{address}: {users}.\nIts disks go away at once. Type \"yes\" to take it: ")?;
    err.flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim() == "yes")
}

/// Takes the steps, and looks whether they have helped.
fn change_hands(
    machine: &Machine,
    controller: &Controller,
    steps: &[Step],
    driver: &str,
    dry_run: bool,
) -> Outcome {
    let address = &controller.address;
    if steps.is_empty() {
        say!("{address} is bound to {driver} already");
        return Ok(());
    }
    for step in steps {
        say!("{step}");
        if !dry_run {
            step.take(machine).map_err(explain)?;
        }
    }
    if dry_run {
        return Ok(());
    }
    let now = binding::find(machine, address)?;
    match now.driver.as_deref() {
        Some(bound) if bound == driver => {
            let uri = now.uri().map(|uri| format!(": {uri}")).unwrap_or_default();
            say!("{address} is bound to {driver} now{uri}");
            Ok(())
        }
        other => Err(anyhow::anyhow!(
            "{address} is bound to {}, and not to {driver}: the kernel's log says why (dmesg)",
            other.unwrap_or("no driver")
        )
        .into()),
    }
}

fn explain(error: BindingError) -> anyhow::Error {
    let denied = matches!(&error, BindingError::Step { source, .. }
        if source.kind() == io::ErrorKind::PermissionDenied);
    let error = anyhow::Error::from(error);
    if denied { error.context("run it as root") } else { error }
}

#[cfg(test)]
mod tests {
    use culvert::binding::Disk;

    use super::*;

    #[test]
    fn a_list_says_who_has_what() {
        let kernels = Controller {
            address: "0000:5e:00.0".into(),
            model: "Fast 9000".into(),
            serial: "S1".into(),
            driver: Some("nvme".into()),
            iommu_group: Some("7".into()),
            group_mates: vec!["0000:5e:00.1".into()],
            disks: vec![Disk {
                name: "nvme0n1".into(),
                bytes: 1 << 40,
                block_size: 4096,
                user: Some("nvme0n1 is mounted at /data".into()),
            }],
            process: None,
        };
        let ours = Controller {
            address: "0000:5f:00.0".into(),
            model: String::new(),
            serial: String::new(),
            driver: Some("vfio-pci".into()),
            group_mates: Vec::new(),
            disks: Vec::new(),
            process: Some(77),
            ..kernels.clone()
        };
        let expected = "\
0000:5e:00.0  nvme, Fast 9000 S1, IOMMU group 7, shared with 0000:5e:00.1
  nvme0n1: 1 TiB, blocks of 4096, nvme0n1 is mounted at /data
0000:5f:00.0  vfio-pci, for vfio:0000:5f:00.0, IOMMU group 7, process 77 has it open
";
        assert_eq!(render(&[kernels, ours], Paint::plain()), expected);
        assert_eq!(render(&[], Paint::plain()), "no NVMe controller on PCI\n");
    }
}
