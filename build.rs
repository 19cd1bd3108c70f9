//! Links the shared library as a plugin must be linked, and writes the C header from `src/capi`.

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=cbindgen.toml");
    println!("cargo:rerun-if-changed=src/capi");
    println!("cargo:rerun-if-changed=include/focal_loss.h");
    link();
    write_header();
}

fn link() {
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        // cargo-c gives the library that it installs a versioned soname.
        if env::var_os("CARGO_FEATURE_CAPI").is_none() {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libfocal_loss.so");
        }
        // ONNX Runtime unloads the library with its last session; thread pools and thread-local
        // destructors must survive that.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}

/// Writes `include/focal_loss.h` where it differs. A checkout that cannot be written to, or a packaged crate,
/// keeps the header it has.
fn write_header() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let root = Path::new(&root);
    let number = |part: &str| env::var(format!("CARGO_PKG_VERSION_{part}")).expect("cargo sets it");
    let mut config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml is valid");
    config.after_includes = Some(format!(
        "\n/** The version of this header; focal_loss_version_string() has the library's. */\n\
         #define FOCAL_LOSS_VERSION_MAJOR {major}\n\
         #define FOCAL_LOSS_VERSION_MINOR {minor}\n\
         #define FOCAL_LOSS_VERSION_PATCH {patch}\n\
         #define FOCAL_LOSS_VERSION \"{major}.{minor}.{patch}\"",
        major = number("MAJOR"),
        minor = number("MINOR"),
        patch = number("PATCH"),
    ));
    let files = ["status", "tensor", "options", "inputs", "compute", "info"];
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in files {
        builder = builder.with_src(root.join(format!("src/capi/{file}.rs")));
    }
    let mut text = Vec::new();
    builder.generate().expect("src/capi is valid for cbindgen").write(&mut text);
    let header = root.join("include/focal_loss.h");
    if fs::read(&header).is_ok_and(|old| old == text) {
        return;
    }
    if let Err(error) = fs::create_dir_all(root.join("include")).and_then(|()| fs::write(&header, &text)) {
        println!("cargo:warning={} is out of date and cannot be written: {error}", header.display());
    }
}
