//! Who may speak to us: peers, SPKI pins and the decision. Pure: bytes in, [`Decision`] out.
