//! The generated gRPC code of `proto/`.

#![expect(
    missing_docs,
    reason = "generated; the documentation is in the .proto files"
)]

/// `fastness.peer.v1`: what nodes say to each other.
pub mod peer {
    tonic::include_proto!("fastness.peer.v1");
}

/// P2PFL's `node`: what learners say to each other.
pub mod p2pfl {
    tonic::include_proto!("node");
}

/// `fastness.admin.v1`: what an administrator asks.
pub mod admin {
    tonic::include_proto!("fastness.admin.v1");
}
