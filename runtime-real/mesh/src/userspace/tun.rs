//! The TUN device: packets of this machine, read and written many at a time.
//!
//! With offloads the kernel hands over TCP as packets of up to 64 KiB, which are cut into segments
//! of the MTU here, and takes segments that were joined again; a call per packet would cost more
//! than its encryption.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use tun_rs::{DeviceBuilder, GROTable, IDEAL_BATCH_SIZE, SyncDevice, VIRTIO_NET_HDR_LEN};

/// Bytes of the largest packet of an interface.
const LARGEST: usize = 65_535;
/// Room of a joined packet, so that joining does not allocate.
const JOINED: usize = VIRTIO_NET_HDR_LEN + LARGEST;

/// A TUN device. It is gone when this is dropped.
pub(crate) struct Tun(SyncDevice);

impl Tun {
    /// Makes the device, down and without addresses.
    pub(crate) fn create(name: &str) -> io::Result<Tun> {
        let builder = DeviceBuilder::new().name(name).inherit_enable_state();
        let device = builder
            .with(|linux| {
                linux.offload(true);
            })
            .build_sync()?;
        device.set_nonblocking(true)?;
        Ok(Tun(device))
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Room for what one call reads.
pub(crate) struct Reader {
    raw: Vec<u8>,
    packets: Vec<Vec<u8>>,
    sizes: Vec<usize>,
}

impl Reader {
    pub(crate) fn new() -> Reader {
        Reader {
            raw: vec![0; JOINED],
            packets: vec![vec![0; LARGEST]; IDEAL_BATCH_SIZE],
            sizes: vec![0; IDEAL_BATCH_SIZE],
        }
    }

    /// The packets of one call.
    ///
    /// # Errors
    /// The system's; `WouldBlock` if none waits.
    pub(crate) fn read<'a>(
        &'a mut self,
        tun: &Tun,
    ) -> io::Result<impl Iterator<Item = &'a [u8]> + use<'a>> {
        let count = tun.0.recv_multiple(&mut self.raw, &mut self.packets, &mut self.sizes, 0)?;
        let packets = self.packets.iter().zip(&self.sizes).take(count);
        Ok(packets.map(|(packet, size)| &packet[..*size]))
    }
}

/// Packets that wait to be written together.
pub(crate) struct Writer {
    table: GROTable,
    packets: Vec<Vec<u8>>,
    used: usize,
}

impl Writer {
    pub(crate) fn new() -> Writer {
        Writer { table: GROTable::new(), packets: Vec::new(), used: 0 }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.used == IDEAL_BATCH_SIZE
    }

    pub(crate) fn push(&mut self, packet: &[u8]) {
        if self.used == self.packets.len() {
            self.packets.push(Vec::new());
        }
        let room = &mut self.packets[self.used];
        room.clear();
        room.resize(VIRTIO_NET_HDR_LEN, 0);
        room.extend_from_slice(packet);
        self.used += 1;
    }

    /// Writes what waits; what the kernel does not take is lost, as on any link.
    pub(crate) fn flush(&mut self, tun: &Tun) {
        if self.used > 0 {
            let waiting = &mut self.packets[..self.used];
            let _ = tun.0.send_multiple(&mut self.table, waiting, VIRTIO_NET_HDR_LEN);
            self.used = 0;
        }
    }
}
