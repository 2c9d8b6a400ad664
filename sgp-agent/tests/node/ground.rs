//! What a machine must have, and allow, for a node to stand on it.

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use sgp_agent::io::kernel::Attachment;

/// Whether tests that need root may run; says how, if not.
pub(crate) fn allowed() -> bool {
    let allowed = std::env::var_os("SGP_TEST_ROOT").is_some_and(|value| value == "1");
    if !allowed {
        println!("skipped: needs root, run `cargo xtask test`");
    }
    allowed
}

/// A machine that nobody has used BPF on has none mounted; `dev up` mounts it the same way.
pub(super) fn provide_bpffs() {
    let path = "/sys/fs/bpf";
    if statfs(path).expect("the machine has a sysfs").filesystem_type() != BPF_FS_MAGIC {
        mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), None::<&str>).expect("root may mount a bpffs");
    }
}

/// The ways to attach programs that this kernel knows, the better one first; none where root tests are not asked for.
pub(crate) fn attachments() -> &'static [Attachment] {
    match allowed().then(|| Attachment::offered().expect("root may ask the kernel")) {
        Some(Attachment::Tcx) => &[Attachment::Tcx, Attachment::Clsact],
        Some(Attachment::Clsact) => &[Attachment::Clsact],
        None => &[],
    }
}
