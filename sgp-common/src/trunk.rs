//! What frames on the trunk are known by: values of `VLANS`, an array of u32 at the VLAN id.
//!
//! An id with a branch of this node has the interface index of that. The agent writes it after the interface's endpoint, and
//! takes it away before.

/// Nothing is told of the id: the cell at [`UNTOLD`] says what that means.
pub const NOTHING: u32 = 0;

/// An interface that is no branch of ours takes these frames: they pass.
pub const OTHERS: u32 = u32::MAX;

/// The cell of id 0, which stands for "no VLAN" (IEEE 802.1Q): [`REFUSED`] where frames of an id of which nothing is told are
/// dropped, else they pass.
pub const UNTOLD: u16 = 0;

/// Value of the cell at [`UNTOLD`]: nobody but us makes branches on this trunk.
pub const REFUSED: u32 = 1;

/// VLAN ids there are (12 bits).
pub const IDS: u32 = 4_096;

/// Bytes that an 802.1Q tag takes in a frame.
pub const TAG_LEN: usize = 4;
