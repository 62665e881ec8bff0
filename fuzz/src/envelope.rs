//! What the transport puts around frames, and what it says by itself.

use culvert_transport::fuzzing;

/// Looks at any bytes as records of a connection and as notices.
pub fn run(bytes: &[u8]) {
    fuzzing::envelope(bytes);
    fuzzing::notice(bytes);
}

/// Records of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let data = [21, 0, 0, 0, 1, 1, 0, 0, 4, 3, 2, 1, 5, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0];
    let credits = [24, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0];
    let grant = [16, 0, 0, 0, 5, 0, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0];
    let notice = [2, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 2, 0, 0];
    vec![[&data[..], &credits, &grant].concat(), notice.to_vec()]
}
