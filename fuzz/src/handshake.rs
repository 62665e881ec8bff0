//! Handshakes, on both sides, with a key and without.
//!
//! The first byte of an input says which; a Hello and a Confirm follow.

use culvert_transport::fuzzing;

/// Leads a handshake with any bytes for what the peer says.
pub fn run(bytes: &[u8]) {
    let Some((choice, said)) = bytes.split_first() else { return };
    let (acceptor, keyed) = (choice & 1 != 0, choice & 2 != 0);
    fuzzing::handshake(acceptor, keyed, said);
    fuzzing::short_hello(said);
    let mut said = said.to_vec();
    for at in [0, fuzzing::HELLO_BYTES] {
        crate::set(&mut said, at, b"CULVERT\0\x01\0");
    }
    fuzzing::handshake(acceptor, keyed, &said);
}

/// A peer that says what is right, on either side.
pub fn seeds() -> Vec<Vec<u8>> {
    [0, 1, 2, 3]
        .map(|choice| {
            [&[choice][..], &fuzzing::right_answers(choice & 1 != 0, choice & 2 != 0)].concat()
        })
        .to_vec()
}
