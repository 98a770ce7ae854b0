//! What a peer can do wrong, as seen from the other end of a ring.

/// A rule that the peer broke. Sticky: the end that saw it stops working, and reports it again when asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// The producer's position went back, or beyond the room that the consumer has released.
    #[error("producer position out of bounds")]
    ProducerPosition,
    /// The consumer's position went back, or beyond what the producer has published.
    #[error("consumer position out of bounds")]
    ConsumerPosition,
    /// A position is not a multiple of [`afnet_abi::shm::RECORD_ALIGN`].
    #[error("position is not aligned")]
    Misaligned,
    /// A record's length exceeds [`afnet_abi::shm::MAX_PAYLOAD`].
    #[error("record too long")]
    RecordTooLong,
    /// A record reaches beyond what was published, or beyond the end of the data area.
    #[error("record crosses the published position or the end of the area")]
    RecordOverrun,
    /// A pad record does not end with the data area, or stands at its start.
    #[error("misplaced pad record")]
    Pad,
}

impl Violation {
    /// The same in words, for counters, events and logs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::ProducerPosition => "producer position out of bounds",
            Self::ConsumerPosition => "consumer position out of bounds",
            Self::Misaligned => "position is not aligned",
            Self::RecordTooLong => "record too long",
            Self::RecordOverrun => "record crosses the published position or the end of the area",
            Self::Pad => "misplaced pad record",
        }
    }
}
