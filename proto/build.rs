//! Compiles the protos without a system protoc, so that a Rust toolchain is all a fresh machine needs.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

const FILES: &[&str] = &[
    "thalweg/v1/common.proto",
    "thalweg/v1/trace.proto",
    "thalweg/v1/producer.proto",
    "thalweg/v1/consumer.proto",
    "thalweg/v1/admin.proto",
    "thalweg/v1/cluster.proto",
    "thalweg/v1/group.proto",
    "thalweg/internal/v1/controller.proto",
    "thalweg/internal/v1/coordinator.proto",
    "thalweg/internal/v1/raft.proto",
    "thalweg/internal/v1/replication.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_source_info(true).include_imports(true).open_files(FILES)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // What reflection serves; without source text it is a quarter of the size.
    fs::write(out.join("thalweg_descriptor.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        // Payloads stay the `Bytes` they arrived as.
        .bytes(".")
        // Maps in a fixed order, so that equal messages encode equally.
        .btree_map(".")
        .codec_path("crate::codec::Codec")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
