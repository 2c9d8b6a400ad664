//! What a test VM boots into: the test programs, what they run, and the modules they need, in one archive.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::progress::command;
use crate::setup::kernels::{Kernel, modules_root};

const INIT: &str = include_str!("init.sh");
/// Modules, with those they need: VLAN links, and what holds programs before Linux 6.6.
const MODULES: [&str; 6] = ["8021q", "veth", "bridge", "dummy", "sch_ingress", "cls_bpf"];
/// Programs that tests run; libraries come along.
const PROGRAMS: [&str; 4] = ["ip", "tc", "bpftool", "nsenter"];
/// By what name programs say a protocol's number.
const PROTOCOLS: &str = "/etc/protocols";
/// What the init script and tests take from busybox. Its own `ip` lacks most of the real one's.
const APPLETS: [&str; 13] =
    ["sh", "mount", "insmod", "poweroff", "uname", "sleep", "cat", "ls", "dmesg", "nc", "ping", "ping6", "sysctl"];

/// What goes into an archive besides the system.
pub(super) struct Content {
    /// Test programs, by name.
    pub(super) tests: Vec<(String, PathBuf)>,
    /// What each is asked to do.
    pub(super) arguments: Vec<String>,
    /// Variables they find, as `NAME=value`.
    pub(super) environment: Vec<String>,
    /// The agent, which tests start by the path it has here.
    pub(super) agent: PathBuf,
    /// Directories that tests read, by the paths they have here.
    pub(super) data: Vec<PathBuf>,
}

/// Builds the archive at `archive` and returns the kernel's image, which boots with it.
///
/// # Errors
/// Names the file or program that is missing.
pub(super) fn build(kernel: &Kernel, content: &Content, archive: &Path) -> Result<PathBuf> {
    let tree = Tree { root: archive.with_extension("tree") };
    tree.clear()?;
    for directory in ["dev", "proc", "sys", "tmp", "run", "root", "bin", "sbin", "tests", "modules"] {
        fs::create_dir_all(tree.root.join(directory)).with_context(|| format!("{directory} cannot be made"))?;
    }
    tree.programs()?;
    tree.tests(content)?;
    tree.modules(kernel)?;
    tree.write("init", INIT)?;
    let script = "find . -print0 | cpio --null --create --format=newc --quiet";
    let output = fs::File::create(archive).with_context(|| format!("{} cannot be written", archive.display()))?;
    let packed = Command::new("sh").args(["-c", script]).current_dir(&tree.root).stdout(output).status();
    ensure!(packed.is_ok_and(|status| status.success()), "`{script}` failed in {}", tree.root.display());
    tree.clear()?;
    image(kernel)
}

/// The bootable image: in `boot`, or with newer packages beside the modules.
fn image(kernel: &Kernel) -> Result<PathBuf> {
    let directory = kernel.directory();
    let places = [
        directory.join(format!("boot/vmlinuz-{}", kernel.release)),
        modules_root(&directory).join(format!("lib/modules/{}/vmlinuz", kernel.release)),
    ];
    let found = places.into_iter().find(|place| place.exists());
    found.with_context(|| format!("{} has no vmlinuz; remove the directory to have it made anew", directory.display()))
}

/// The archive's content, as a directory.
struct Tree {
    root: PathBuf,
}

impl Tree {
    fn clear(&self) -> Result<()> {
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{} cannot be removed", self.root.display()))
            }
            _ => Ok(()),
        }
    }

    fn write(&self, path: &str, content: &str) -> Result<()> {
        let path = self.root.join(path);
        let written =
            fs::write(&path, content).and_then(|()| fs::set_permissions(&path, PermissionsExt::from_mode(0o755)));
        written.with_context(|| format!("{} cannot be written", path.display()))
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        let to = self.root.join(to.strip_prefix("/").unwrap_or(to));
        let made = to.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| fs::copy(from, &to)).with_context(|| format!("{} cannot be copied", from.display()))?;
        Ok(())
    }

    fn programs(&self) -> Result<()> {
        let busybox = found("busybox")?;
        self.copy(&busybox, Path::new("bin/busybox"))?;
        self.libraries(&busybox)?;
        for applet in APPLETS {
            symlink("busybox", self.root.join("bin").join(applet)).with_context(|| format!("no link for {applet}"))?;
        }
        for program in PROGRAMS {
            let program = found(program)?;
            self.copy(&program, &Path::new("sbin").join(program.file_name().unwrap_or_default()))?;
            self.libraries(&program)?;
        }
        Ok(())
    }

    fn tests(&self, content: &Content) -> Result<()> {
        for (name, program) in &content.tests {
            self.stripped(program, &Path::new("tests").join(name))?;
        }
        self.stripped(&content.agent, &content.agent)?;
        self.copy(Path::new(PROTOCOLS), Path::new(PROTOCOLS))?;
        content.data.iter().try_for_each(|directory| self.directory(directory))?;
        let names: String = content.tests.iter().map(|(name, _)| format!("{name}\n")).collect();
        self.write("tests/order", &names)?;
        let exports: String = content.environment.iter().map(|variable| format!("export {variable}\n")).collect();
        self.write("tests/settings", &format!("{exports}arguments='{}'\n", content.arguments.join(" ")))
    }

    /// Without debug information a program is a third as large, and a VM has little memory to unpack it to.
    fn stripped(&self, program: &Path, to: &Path) -> Result<()> {
        self.copy(program, to)?;
        let inside = self.root.join(to.strip_prefix("/").unwrap_or(to));
        // Where there is no strip, it is large.
        drop(Command::new("strip").arg(inside).status());
        self.libraries(program)
    }

    fn directory(&self, directory: &Path) -> Result<()> {
        let entries = fs::read_dir(directory).with_context(|| format!("{} cannot be listed", directory.display()))?;
        entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_file())
            .try_for_each(|file| self.copy(&file, &file))
    }

    /// Copies the shared libraries of a program, and the loader, to where the program looks for them.
    fn libraries(&self, program: &Path) -> Result<()> {
        // A static program has none, and then ldd fails.
        let listed = command::answer(Command::new("ldd").arg(program)).unwrap_or_default();
        libraries_in(&listed).try_for_each(|library| self.copy(Path::new(library), Path::new(library)))
    }

    fn modules(&self, kernel: &Kernel) -> Result<()> {
        let mut order: Vec<String> = Vec::new();
        for module in MODULES {
            for path in with_needed(kernel, module)? {
                let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let name = file.trim_end_matches(".xz").to_owned();
                if !order.contains(&name) {
                    self.module(&path, &name)?;
                    order.push(name);
                }
            }
        }
        self.write("modules/order", &order.iter().map(|name| format!("{name}\n")).collect::<String>())
    }

    fn module(&self, path: &Path, name: &str) -> Result<()> {
        let to = Path::new("modules").join(name);
        if path.extension().is_none_or(|extension| extension != "xz") {
            return self.copy(path, &to);
        }
        let unpacked = command::output(Command::new("xz").args(["--decompress", "--stdout"]).arg(path))?;
        ensure!(unpacked.status.success(), "`xz` cannot unpack {}", path.display());
        fs::write(self.root.join(&to), unpacked.stdout).with_context(|| format!("{} cannot be written", to.display()))
    }
}

/// Files to load for a module, in order; none where it is built in.
fn with_needed(kernel: &Kernel, module: &str) -> Result<Vec<PathBuf>> {
    let mut modprobe = Command::new(found("modprobe")?);
    modprobe.arg("--dirname").arg(modules_root(&kernel.directory())).args(["--set-version", &kernel.release]);
    let Some(listed) = command::answer(modprobe.args(["--show-depends", module])) else {
        bail!("Linux {} has no module {module}", kernel.release);
    };
    // A path, and options that some module's configuration sets.
    let paths = listed.lines().filter_map(|line| line.trim().strip_prefix("insmod ")?.split_whitespace().next());
    Ok(paths.map(PathBuf::from).collect())
}

/// The paths in what ldd prints.
fn libraries_in(listed: &str) -> impl Iterator<Item = &str> {
    listed.split_whitespace().filter(|word| word.starts_with('/'))
}

fn found(program: &str) -> Result<PathBuf> {
    command::find(program).with_context(|| format!("there is no {program}; run `cargo xtask setup`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_of_a_program_and_its_loader_are_found() {
        let listed = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\t/lib64/ld.so.2 (0x7f)";
        assert_eq!(libraries_in(listed).collect::<Vec<_>>(), ["/lib/x/libc.so.6", "/lib64/ld.so.2"]);
    }
}
