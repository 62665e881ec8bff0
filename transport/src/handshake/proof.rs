//! The proof that a side holds the pre-shared key: HMAC-SHA256 over its role and everything said
//! before.
//!
//! Both Hellos are covered, and with them both nonces, identities, versions and limits: a proof
//! fits one handshake, one direction and one pair of peers, so it cannot be replayed or reflected.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use zerocopy::IntoBytes;

use crate::handshake::message::Hello;

/// Which side proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It connects.
    Connector,
    /// It accepts.
    Acceptor,
}

impl Role {
    /// What keeps the two directions apart.
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Connector => b"culvert transport 1 connector",
            Self::Acceptor => b"culvert transport 1 acceptor\0",
        }
    }

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Connector => Self::Acceptor,
            Self::Acceptor => Self::Connector,
        }
    }
}

/// The Hellos of one handshake, in the order in which they were sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transcript {
    pub(crate) connector: Hello,
    pub(crate) acceptor: Hello,
}

fn mac(key: &[u8], role: Role, transcript: &Transcript, window_pages: u32) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(role.label());
    mac.update(transcript.connector.as_bytes());
    mac.update(transcript.acceptor.as_bytes());
    mac.update(&window_pages.to_le_bytes());
    mac
}

/// The proof of `role`, who also says that his window has `window_pages` pages.
pub(crate) fn prove(
    key: &[u8],
    role: Role,
    transcript: &Transcript,
    window_pages: u32,
) -> [u8; 32] {
    mac(key, role, transcript, window_pages).finalize().into_bytes().into()
}

/// Whether `proof` is the proof of `role`, compared in constant time.
pub(crate) fn verify(
    key: &[u8],
    role: Role,
    transcript: &Transcript,
    window_pages: u32,
    proof: &[u8; 32],
) -> bool {
    mac(key, role, transcript, window_pages).verify_slice(proof).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::message::tests::introduction;

    fn transcript() -> Transcript {
        let me = introduction();
        Transcript { connector: Hello::new(&me, [1; 32]), acceptor: Hello::new(&me, [2; 32]) }
    }

    #[test]
    fn a_proof_fits_one_role_key_transcript_and_size() {
        let transcript = transcript();
        let proof = prove(b"key", Role::Connector, &transcript, 8);
        assert!(verify(b"key", Role::Connector, &transcript, 8, &proof));
        assert!(!verify(b"kez", Role::Connector, &transcript, 8, &proof));
        assert!(!verify(b"key", Role::Acceptor, &transcript, 8, &proof));
        assert!(!verify(b"key", Role::Connector, &transcript, 9, &proof));
        let swapped = Transcript { connector: transcript.acceptor, acceptor: transcript.connector };
        assert!(!verify(b"key", Role::Connector, &swapped, 8, &proof));
    }

    /// Pins the construction: computed with Python's `hmac` over the same bytes.
    #[test]
    fn the_proof_is_fixed() {
        let proof = prove(b"culvert", Role::Acceptor, &transcript(), 8);
        let text: String = proof.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "6b80f2e7fb62c9861c548e2fc73d031d6d9ecbac967da2c77132394909f983cd");
    }
}
