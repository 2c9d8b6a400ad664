//! The parts of bpf(2) that aya does not offer: inner maps with BTF, and what a link is attached to.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::Pod;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_BTF_GET_FD_BY_ID: libc::c_long = 19;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// How long programs are given on a kernel that does not say when they have ended: they run for microseconds.
const PROGRAMS_END: Duration = Duration::from_millis(50);

/// Returns once every program that runs now has ended: a grace period of RCU, which membarrier(2) waits for (Linux 4.3) except
/// where CPUs run without ticks (`nohz_full`).
pub(super) fn wait_for_programs() {
    // SAFETY: the call takes plain numbers.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if done != 0 {
        std::thread::sleep(PROGRAMS_END);
    }
}

/// Leading part of the kernel's `struct bpf_map_info` (Linux 4.18 and later fill these fields).
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct MapInfo {
    map_type: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    name: [u8; 16],
    ifindex: u32,
    btf_vmlinux_value_type_id: u32,
    netns_dev: u64,
    netns_ino: u64,
    btf_id: u32,
    btf_key_type_id: u32,
    btf_value_type_id: u32,
    reserved: u32,
}

/// Leading part of `struct bpf_link_info` for a tcx link (Linux 6.6).
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct LinkInfo {
    link_type: u32,
    id: u32,
    /// Id of the program behind the link.
    pub(super) program_id: u32,
    reserved: u32,
    /// Interface index; 0 once the interface is gone.
    pub(super) ifindex: u32,
    attach_type: u32,
    space: [u64; 8],
}

#[repr(C)]
#[derive(Default)]
struct CreateMap {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
    ifindex: u32,
    btf_fd: u32,
    btf_key_type_id: u32,
    btf_value_type_id: u32,
}

/// Creates a map of the same shape, BTF included, as the one behind `shape`. bpftool then prints its fields
/// by name. `name` is cut to 15 bytes, as the kernel keeps them.
///
/// # Errors
/// The kernel's own, for example EPERM without CAP_BPF or ENOMEM.
pub(super) fn create_like(shape: BorrowedFd<'_>, max_entries: u32, name: &str) -> Result<OwnedFd> {
    let shape: MapInfo = info(shape).context("reading the shape of policies")?;
    let btf = btf_of(&shape).context("opening the BTF of policies")?;
    let mut create = CreateMap {
        map_type: shape.map_type,
        key_size: shape.key_size,
        value_size: shape.value_size,
        max_entries,
        map_flags: shape.map_flags,
        btf_fd: btf.as_raw_fd().cast_unsigned(),
        btf_key_type_id: shape.btf_key_type_id,
        btf_value_type_id: shape.btf_value_type_id,
        ..CreateMap::default()
    };
    let length = name.len().min(create.name.len() - 1);
    create.name[..length].copy_from_slice(&name.as_bytes()[..length]);
    new_fd(bpf(BPF_MAP_CREATE, &mut create)).with_context(|| format!("creating the map {name}"))
}

/// Reads what the kernel tells of a tcx link.
///
/// # Errors
/// Where the descriptor is not a link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> Result<LinkInfo> {
    info(link).context("reading a link")
}

/// Puts another program behind a link, without a gap (Linux 5.7).
///
/// # Errors
/// Where the program is of another type, or the link is dead.
pub(super) fn replace_program(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Update {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    let mut update = Update {
        link_fd: link.as_raw_fd().cast_unsigned(),
        new_prog_fd: program.as_raw_fd().cast_unsigned(),
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(BPF_LINK_UPDATE, &mut update).map(drop)
}

/// Takes a link's program off at once (Linux 5.9). When the last pin goes, the kernel does so too, but some time later.
///
/// # Errors
/// Where the descriptor is not a link, or the kernel knows no detaching of its kind.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Detach {
        link_fd: u32,
    }
    bpf(BPF_LINK_DETACH, &mut Detach { link_fd: link.as_raw_fd().cast_unsigned() }).map(drop)
}

#[repr(C)]
struct Pinned {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Opens whatever is pinned at a path.
///
/// # Errors
/// ENOENT where nothing is, EPERM without CAP_BPF.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    new_fd(bpf(BPF_OBJ_GET, &mut Pinned { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 }))
}

/// Pins whatever a descriptor is of.
///
/// # Errors
/// EEXIST where something is, EPERM where the path is on no bpffs.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let bpf_fd = object.as_raw_fd().cast_unsigned();
    bpf(BPF_OBJ_PIN, &mut Pinned { pathname: path.as_ptr() as u64, bpf_fd, file_flags: 0 }).map(drop)
}

/// Shows every entry of a hash table, read some thousand at a time (Linux 5.6). One that is written meanwhile may be missing.
///
/// # Errors
/// The kernel's own.
pub(super) fn each<K: Pod, V: Pod>(map: BorrowedFd<'_>, mut show: impl FnMut(K, V)) -> io::Result<()> {
    #[repr(C)]
    struct Batch {
        in_batch: u64,
        out_batch: u64,
        keys: u64,
        values: u64,
        count: u32,
        map_fd: u32,
        elem_flags: u64,
        flags: u64,
    }
    let (mut room, mut begin) = (8192_usize, None::<u32>);
    loop {
        let (mut keys, mut values) = (Vec::<K>::with_capacity(room), Vec::<V>::with_capacity(room));
        let mut end = 0_u32;
        let mut batch = Batch {
            in_batch: begin.as_ref().map_or(0, |begin| std::ptr::from_ref(begin) as u64),
            out_batch: std::ptr::from_mut(&mut end) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room as u32,
            map_fd: map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        let result = bpf(BPF_MAP_LOOKUP_BATCH, &mut batch).map_err(|error| (error.raw_os_error(), error));
        let is_last = match result {
            Ok(_) => false,
            Err((Some(libc::ENOENT), _)) => true,
            // One bucket has more than there is room for.
            Err((Some(libc::ENOSPC), _)) => {
                room *= 2;
                continue;
            }
            Err((_, error)) => return Err(error),
        };
        let count = room.min(batch.count as usize);
        // SAFETY: the kernel has written as many keys and values as it says, and any bytes are a `Pod`.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        keys.into_iter().zip(values).for_each(|(key, value)| show(key, value));
        if is_last {
            return Ok(());
        }
        begin = Some(end);
    }
}

fn btf_of(shape: &MapInfo) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct GetById {
        id: u32,
        next_id: u32,
        open_flags: u32,
    }
    new_fd(bpf(BPF_BTF_GET_FD_BY_ID, &mut GetById { id: shape.btf_id, next_id: 0, open_flags: 0 }))
}

fn info<T: Default>(fd: BorrowedFd<'_>) -> io::Result<T> {
    #[repr(C)]
    struct GetInfo {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = T::default();
    let mut get = GetInfo {
        bpf_fd: fd.as_raw_fd().cast_unsigned(),
        info_len: size_of::<T>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut get)?;
    Ok(info)
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<i64> {
    // SAFETY: `attributes` is one of the structures above, and its size is what the kernel is told.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn new_fd(result: io::Result<i64>) -> io::Result<OwnedFd> {
    // SAFETY: these commands answer with a descriptor that nobody else owns.
    result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
