//! How packets are varied: shared by the driver and the benchmark that orders it.

/// Value of the map `DRIVE`: how to make packets of many flows out of one. Flow `n` of `mask + 1` follows flow `n - 1` by
/// `step`, so that all have their turn and neighbours in a table do not follow each other.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drive {
    /// How many flows there are, less one; a power of two less one.
    pub(crate) mask: u32,
    /// Odd.
    pub(crate) step: u32,
    /// Number of the next packet.
    pub(crate) next: u32,
    /// Words that are written anew for each packet: (the last of) its source, of its destination, and its ports.
    pub(crate) words: [Word; 3],
}

/// Four bytes of a packet, as a number in host order: `base + ((flow >> shift) & mask) * unit`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    /// Where it stands in the frame.
    pub(crate) at: u32,
    /// What it is in flow 0.
    pub(crate) base: u32,
    /// Bits of the flow's number that say nothing here.
    pub(crate) shift: u32,
    /// Those that do, from there.
    pub(crate) mask: u32,
    /// What one more is worth.
    pub(crate) unit: u32,
}

impl Word {
    /// What it is in this flow.
    #[inline(always)]
    pub(crate) fn of(&self, flow: u32) -> u32 {
        self.base.wrapping_add(((flow >> (self.shift & 31)) & self.mask).wrapping_mul(self.unit))
    }
}

impl Drive {
    /// The flow whose turn it is.
    #[inline(always)]
    pub(crate) fn flow(&mut self) -> u32 {
        let flow = self.next.wrapping_mul(self.step) & self.mask;
        self.next = self.next.wrapping_add(1);
        flow
    }
}
