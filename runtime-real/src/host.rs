//! What this machine has to give: cores and memory, as the kernel says.

use std::thread::available_parallelism;

use mill_core::cluster::node::{Capacity, PortPool};
use mill_core::units::{Bytes, Millicores};

/// Memory that is left to the system and the daemon, as a share of all: one part in this many.
const RESERVED_MEMORY_PART: u64 = 16;

/// Cores and memory of this machine that containers may have.
pub fn capacity(ports: PortPool) -> Capacity {
    let cores = available_parallelism().map_or(1, usize::from);
    let info = rustix::system::sysinfo();
    let total = info.totalram.saturating_mul(u64::from(info.mem_unit));
    Capacity {
        cpu: Millicores(1000 * u64::try_from(cores).unwrap_or(1)),
        memory: Bytes(total - total / RESERVED_MEMORY_PART),
        ports,
    }
}
