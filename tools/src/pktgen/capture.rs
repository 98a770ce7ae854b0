//! Captures to replay: pcap and pcapng files, as frames and times.

use std::{
    fs::File,
    io::{BufReader, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use pcap_file::{DataLink, PcapError, pcap::PcapReader, pcapng::PcapNgReader};

use super::error::{Error, Result};

/// Most frames and bytes that are read: a replay is held in memory.
const MOST_FRAMES: usize = 4 << 20;
const MOST_BYTES: usize = 2 << 30;
/// First word of a pcapng file.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// What a frame must have at least, and may have at most.
const LENGTHS: std::ops::RangeInclusive<usize> = 14..=9000 + 18;

/// What was captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// Frames, in order.
    pub frames: Vec<Vec<u8>>,
    /// Nanoseconds of each since the first; never running backwards.
    pub offsets: Vec<u64>,
    /// Packets left out: too short for Ethernet, longer than a jumbo frame, or captured in part.
    pub skipped: usize,
    bytes: usize,
    first: Option<u64>,
}

impl Capture {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, is no capture of Ethernet, is broken, or has no frame that can be sent.
    pub fn read(path: &Path) -> Result<Self> {
        let bad = |what: String| Error::Capture { path: path.into(), what };
        let io = |error: std::io::Error| bad(error.to_string());
        let mut file = File::open(path).map_err(io)?;
        let mut magic = [0; 4];
        file.read_exact(&mut magic).map_err(|_| bad("too short for a capture".into()))?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut capture = Self::default();
        let result = if magic == PCAPNG { capture.pcapng(file) } else { capture.pcap(file) };
        result.map_err(|what| bad(format!("{what} (after {} frames)", capture.frames.len())))?;
        if capture.frames.is_empty() {
            return Err(bad(format!("no frame that can be sent ({} skipped)", capture.skipped)));
        }
        Ok(capture)
    }

    fn pcap(&mut self, file: File) -> std::result::Result<(), String> {
        let mut reader = PcapReader::new(BufReader::new(file)).map_err(text)?;
        link(reader.header().datalink)?;
        while let Some(packet) = reader.next_packet() {
            let packet = packet.map_err(text)?;
            self.add(nanoseconds(packet.timestamp), packet.orig_len, &packet.data)?;
        }
        Ok(())
    }

    fn pcapng(&mut self, file: File) -> std::result::Result<(), String> {
        use pcap_file::pcapng::Block;
        let mut reader = PcapNgReader::new(BufReader::new(file)).map_err(text)?;
        let mut links = Vec::new();
        loop {
            let Some(block) = reader.next_block() else { return Ok(()) };
            match block.map_err(text)? {
                Block::SectionHeader(_) => links.clear(),
                Block::InterfaceDescription(interface) => links.push(interface.linktype),
                Block::EnhancedPacket(packet) => {
                    let at = usize::try_from(packet.interface_id).unwrap_or(usize::MAX);
                    link(*links.get(at).ok_or("a packet of an interface that was not described")?)?;
                    self.add(nanoseconds(packet.timestamp), packet.original_len, &packet.data)?;
                }
                Block::SimplePacket(packet) => {
                    link(*links.first().ok_or("a packet of an interface that was not described")?)?;
                    let last = self.offsets.last().copied().unwrap_or(0);
                    let time = self.first.unwrap_or(0).saturating_add(last);
                    self.add(time, packet.original_len, &packet.data)?;
                }
                _ => {}
            }
        }
    }

    fn add(&mut self, time: u64, length: u32, data: &[u8]) -> std::result::Result<(), String> {
        if usize::try_from(length) != Ok(data.len()) || !LENGTHS.contains(&data.len()) {
            self.skipped += 1;
            return Ok(());
        }
        if self.frames.len() == MOST_FRAMES || self.bytes + data.len() > MOST_BYTES {
            return Err(format!("more than {MOST_FRAMES} frames or {} MiB", MOST_BYTES >> 20));
        }
        self.bytes += data.len();
        let offset = time.saturating_sub(*self.first.get_or_insert(time));
        self.offsets.push(offset.max(self.offsets.last().copied().unwrap_or(0)));
        let mut frame = data.to_vec();
        // Captures of the sender's side have frames that a card would pad.
        frame.resize(frame.len().max(*super::flow::SIZES.start()), 0);
        self.frames.push(frame);
        Ok(())
    }
}

fn link(kind: DataLink) -> std::result::Result<(), String> {
    if kind == DataLink::ETHERNET { Ok(()) } else { Err(format!("packets of {kind:?}, not of Ethernet")) }
}

fn text(error: PcapError) -> String {
    match error {
        PcapError::IncompleteBuffer => "it ends within a packet".into(),
        PcapError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "it ends within a packet".into()
        }
        PcapError::IoError(error) => error.to_string(),
        other => other.to_string(),
    }
}

fn nanoseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, time::Duration};

    use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
    use proptest::prelude::*;

    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn sample() -> Vec<u8> {
        let mut writer = PcapWriter::with_header(Vec::new(), PcapHeader::default()).unwrap();
        for (time, length) in [(1_000u64, 60usize), (1_500, 42), (1_200, 1514), (2_000, 10)] {
            let data = vec![7; length];
            let original = u32::try_from(length).unwrap();
            writer.write_packet(&PcapPacket::new(Duration::from_micros(time), original, &data)).unwrap();
        }
        writer.into_writer()
    }

    #[test]
    fn frames_and_times() {
        let capture = Capture::read(file(&sample()).path()).unwrap();
        let sizes: Vec<_> = capture.frames.iter().map(Vec::len).collect();
        assert_eq!((sizes, capture.skipped), (vec![60, 60, 1514], 1));
        assert_eq!(capture.offsets, [0, 500_000, 500_000], "time does not run backwards");
    }

    #[test]
    fn what_is_refused() {
        let error = |bytes: &[u8]| Capture::read(file(bytes).path()).unwrap_err().to_string();
        assert!(error(b"").contains("too short"));
        assert!(error(b"this is no capture at all").contains("after 0 frames"));
        let good = sample();
        assert!(
            error(&good[..good.len() - 3]).contains("ends within a packet"),
            "{}",
            error(&good[..good.len() - 3])
        );
        assert!(error(&good[..24]).contains("no frame"));
        let mut other = good;
        other[20] = 101;
        assert!(error(&other).contains("not of Ethernet"));
        assert!(Capture::read(Path::new("/does/not/exist")).is_err());
    }

    proptest! {
        /// Broken files: an error or frames, never a panic.
        #[test]
        fn any_bytes(at in 0..200usize, bytes in proptest::collection::vec(any::<u8>(), 1..20), ng: bool) {
            let mut broken = sample();
            let end = (at + bytes.len()).min(broken.len());
            broken[at..end].copy_from_slice(&bytes[..end - at]);
            if ng {
                broken[..4].copy_from_slice(&PCAPNG);
            }
            let _ = Capture::read(file(&broken).path());
        }
    }
}
