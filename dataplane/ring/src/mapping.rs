//! An endpoint's memory: one sealed memfd, mapped by afnetd and by the tenant.
//!
//! The seals fix the size (`F_SEAL_SHRINK`, `F_SEAL_GROW`, `F_SEAL_SEAL`), so no access to the mapping can ever
//! fault for want of a page behind it. Writing is not sealed: both sides write.

use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use afnet_abi::{
    ABI_VERSION,
    shm::{self, HEADER_LEN, Header, MAGIC, MAX_WORKERS, RECORD_ALIGN, RingControl, endpoint_kind},
};
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create},
    io::Errno,
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap},
};

use crate::{
    Consumer, Producer,
    control::{End, Words},
    memory::{Area, Region},
    sync::Tracker,
};

/// Seals that both sides rely on.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Geometry of an endpoint's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// One of [`endpoint_kind`].
    pub kind: u32,
    /// Number of workers, 1 to [`MAX_WORKERS`]: pairs of rings.
    pub workers: usize,
    /// Bytes of each RX data area: a power of two within the limits of [`shm::valid_ring_len`].
    pub rx_len: usize,
    /// Bytes of each TX data area, likewise.
    pub tx_len: usize,
}

impl Layout {
    /// Whether all numbers are within the limits of the ABI.
    pub fn is_valid(&self) -> bool {
        matches!(self.kind, endpoint_kind::UDP | endpoint_kind::RAW)
            && (1..=MAX_WORKERS).contains(&self.workers)
            && shm::valid_ring_len(self.rx_len)
            && shm::valid_ring_len(self.tx_len)
    }

    /// Bytes of the whole memfd.
    pub fn total_len(&self) -> usize {
        shm::total_len(self.workers, self.rx_len, self.tx_len)
    }
}

/// Why a memfd is not an endpoint's memory.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel refused.
    #[error("cannot map the endpoint's memory")]
    Io(#[from] io::Error),
    /// The file can still shrink or grow.
    #[error("the endpoint's memory is not sealed")]
    Unsealed,
    /// No header where one should be.
    #[error("not an endpoint's memory")]
    Magic,
    /// Another version of the layout.
    #[error(
        "the daemon speaks version {daemon} of the shared-memory layout, this library version {}",
        ABI_VERSION
    )]
    Version {
        /// The daemon's [`ABI_VERSION`].
        daemon: u32,
    },
    /// Numbers outside of the ABI's limits, or a file of another size than they say.
    #[error("the header of the endpoint's memory is not plausible: {0:?}, {1} bytes")]
    Geometry(Layout, u64),
}

/// An endpoint's memory, mapped. Clones share it; it is unmapped when they and all ring ends are gone.
#[derive(Clone, Debug)]
pub struct Mapping {
    region: Arc<Region>,
    base: NonNull<u8>,
    layout: Layout,
    /// A bit for each worker whose ends have been handed out: `[worker side, tenant side]`.
    taken: Arc<[AtomicU64; 2]>,
}

// SAFETY: `base` points into `region`, which is Send and Sync and lives as long; the header is not read again.
unsafe impl Send for Mapping {}
// SAFETY: as above; `taken` is atomic.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Makes the memory of a new endpoint: a zeroed, sealed memfd with its header, close-on-exec. Pages come into
    /// being when first touched, see [`Self::populate`].
    ///
    /// # Errors
    /// `InvalidInput` if the layout is outside of the ABI's limits, else what the kernel says.
    pub fn create(layout: Layout) -> io::Result<(Self, OwnedFd)> {
        if !layout.is_valid() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("bad endpoint layout {layout:?}"),
            ));
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Kernels before 6.3 know no NOEXEC_SEAL; later ones warn when it is missing.
        let fd = match memfd_create("afnet-endpoint", flags | MemfdFlags::NOEXEC_SEAL) {
            Err(Errno::INVAL) => memfd_create("afnet-endpoint", flags)?,
            other => other?,
        };
        ftruncate(&fd, layout.total_len() as u64)?;
        fcntl_add_seals(&fd, SEALS)?;
        let mapping = Self::map(fd.as_fd(), layout)?;
        let header = Header {
            magic: MAGIC,
            abi_version: ABI_VERSION,
            kind: layout.kind,
            workers: u32::try_from(layout.workers).unwrap_or(u32::MAX),
            reserved: 0,
            rx_len: layout.rx_len as u64,
            tx_len: layout.tx_len as u64,
        };
        // SAFETY: the mapping starts with a page for the header and is page-aligned; nobody else has the fd yet.
        unsafe { mapping.base.cast::<Header>().write(header) };
        Ok((mapping, fd))
    }

    /// Maps the memory that afnetd has sent.
    ///
    /// # Errors
    /// If the file is not one that [`Self::create`] makes.
    pub fn open(fd: BorrowedFd<'_>) -> Result<Self, OpenError> {
        match fcntl_get_seals(fd) {
            Ok(seals) if seals.contains(SEALS) => {}
            // EINVAL: not a file that can be sealed.
            Ok(_) | Err(Errno::INVAL) => return Err(OpenError::Unsealed),
            Err(e) => return Err(io::Error::from(e).into()),
        }
        let size = u64::try_from(fstat(fd).map_err(io::Error::from)?.st_size).unwrap_or(0);
        if size < HEADER_LEN as u64 {
            return Err(OpenError::Magic);
        }
        let header = read_header(fd)?;
        if header.magic != MAGIC {
            return Err(OpenError::Magic);
        }
        if header.abi_version != ABI_VERSION {
            return Err(OpenError::Version { daemon: header.abi_version });
        }
        let word = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let layout = Layout {
            kind: header.kind,
            workers: word(header.workers.into()),
            rx_len: word(header.rx_len),
            tx_len: word(header.tx_len),
        };
        if !layout.is_valid() || layout.total_len() as u64 != size {
            return Err(OpenError::Geometry(layout, size));
        }
        Ok(Self::map(fd, layout)?)
    }

    fn map(fd: BorrowedFd<'_>, layout: Layout) -> io::Result<Self> {
        let (base, region) = map_shared(fd, layout.total_len())?;
        Ok(Self { region: Arc::new(region), base, layout, taken: Arc::default() })
    }

    /// Its geometry.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Touches all pages now, so that the first lap through the rings takes no page faults. Costs the memory at
    /// once.
    ///
    /// # Errors
    /// What the kernel says (it needs 5.14).
    pub fn populate(&self) -> io::Result<()> {
        // SAFETY: the range is this mapping; populating changes no content.
        unsafe { madvise(self.base.as_ptr().cast(), self.layout.total_len(), Advice::LinuxPopulateWrite)? };
        Ok(())
    }

    /// Worker `worker`'s ends: it produces RX and consumes TX. `None` if there is no such worker, or its ends have
    /// been taken: a ring has one producer and one consumer.
    pub fn worker_side(&self, worker: usize) -> Option<(Producer, Consumer)> {
        let (rx, tx) = self.take(0, worker)?;
        Some((rx.producer(), tx.consumer()))
    }

    /// The tenant's ends of worker `worker`'s rings: it consumes RX and produces TX. `None` as in
    /// [`Self::worker_side`].
    pub fn tenant_side(&self, worker: usize) -> Option<(Consumer, Producer)> {
        let (rx, tx) = self.take(1, worker)?;
        Some((rx.consumer(), tx.producer()))
    }

    /// The places of a worker's two rings, once for each side.
    fn take(&self, side: usize, worker: usize) -> Option<(Place, Place)> {
        let Layout { workers, rx_len, tx_len, .. } = self.layout;
        if worker >= workers || self.taken[side].fetch_or(1 << worker, Ordering::Relaxed) & 1 << worker != 0 {
            return None;
        }
        let start = shm::worker_offset(worker, rx_len, tx_len);
        let data = start + shm::CTL_LEN;
        let place = |control: usize, data: usize, len: usize| Place {
            region: Arc::clone(&self.region),
            // SAFETY: `worker` is below `workers`, so both offsets lie in the mapping (`shm::total_len`).
            control: unsafe { self.base.add(control) }.cast(),
            // SAFETY: as above.
            data: unsafe { self.base.add(data) },
            len,
        };
        Some((place(start, data, rx_len), place(start + size_of::<RingControl>(), data + rx_len, tx_len)))
    }
}

/// Where a ring lies in the mapping.
struct Place {
    region: Arc<Region>,
    control: NonNull<RingControl>,
    data: NonNull<u8>,
    len: usize,
}

impl Place {
    fn ends(self, end: End) -> (Area, Words) {
        let tracker = Arc::new(Tracker::new(self.len / RECORD_ALIGN));
        // SAFETY: `control` lies in the region, which `Area` keeps alive beside the words, and is aligned.
        let words = unsafe { Words::new(self.control, end) };
        // SAFETY: pages follow pages: `data` is aligned, and `len` bytes from it lie in the region (`take`).
        let area = unsafe { Area::new(self.data, self.len, self.region, tracker) };
        (area, words)
    }

    fn producer(self) -> Producer {
        let (area, words) = self.ends(End::Producer);
        Producer::new(area, words)
    }

    fn consumer(self) -> Consumer {
        let (area, words) = self.ends(End::Consumer);
        Consumer::new(area, words)
    }
}

fn map_shared(fd: BorrowedFd<'_>, len: usize) -> io::Result<(NonNull<u8>, Region)> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
    let base = unsafe { mmap(core::ptr::null_mut(), len, access, MapFlags::SHARED, fd, 0)? };
    let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((base, Region::Mapped { base, len }))
}

/// A copy of the header. The file is at least [`HEADER_LEN`] long and sealed.
fn read_header(fd: BorrowedFd<'_>) -> io::Result<Header> {
    let (base, _region) = map_shared(fd, HEADER_LEN)?;
    // SAFETY: a page that starts with the header; the copy is volatile because another process could write. Every
    // bit pattern is a Header.
    Ok(unsafe { base.cast::<Header>().read_volatile() })
}
