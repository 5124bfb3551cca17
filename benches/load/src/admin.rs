//! Generated from the product's `proto/`.
#![allow(clippy::all)]

tonic::include_proto!("fastness.admin.v1");
