//! The token key, the credential, the verifier and the handshakes, in the words of rustls.
