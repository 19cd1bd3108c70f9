//! What the tests that load ONNX Runtime share.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// `libonnxruntime.so` of the wheel in a virtual environment under `target`; none where the wheel has no such file, as
/// those before 1.19.
pub fn hosts_in(environment: &str) -> Vec<PathBuf> {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(environment).join("lib");
    let entries = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries(packages)
        .flat_map(|python| entries(python.join("site-packages/onnxruntime/capi")))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libonnxruntime.so")))
        .collect()
}

/// The shared library that was built along with this test.
pub fn library() -> PathBuf {
    let named = env::var_os("FOCAL_LOSS_LIBRARY").map(PathBuf::from);
    let path = named.unwrap_or_else(|| {
        let executable = env::current_exe().expect("a running test has one");
        let name = format!("{}focal_loss{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
        executable.parent().expect("a folder").join(name)
    });
    assert!(path.exists(), "{} is not there: set FOCAL_LOSS_LIBRARY", path.display());
    path
}

/// ONNX in its wire format, as far as a model of one node needs it: fields are numbers or bytes.
pub mod onnx {
    fn varint(mut value: u64, out: &mut Vec<u8>) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    pub fn number(field: u64, value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        varint(field << 3, &mut out);
        varint(value, &mut out);
        out
    }

    pub fn bytes(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
        let content = content.as_ref();
        let mut out = Vec::new();
        varint(field << 3 | 2, &mut out);
        varint(content.len() as u64, &mut out);
        out.extend_from_slice(content);
        out
    }

    const FLOAT: u64 = 1;
    const INT64: u64 = 7;

    /// `inputs`: names, and whether it is class indices; the output is a float called "result".
    pub fn model(operator: &str, inputs: &[(&str, bool)], reduction: &str) -> Vec<u8> {
        let value = |name: &str, is_index: bool| {
            let tensor = number(1, if is_index { INT64 } else { FLOAT });
            [bytes(1, name), bytes(2, bytes(1, tensor))].concat()
        };
        let attribute = [bytes(1, "reduction"), bytes(4, reduction), number(20, 3)].concat();
        let names: Vec<u8> = inputs.iter().flat_map(|(name, _)| bytes(1, name)).collect();
        let rest =
            [bytes(2, "result"), bytes(3, "loss"), bytes(4, operator), bytes(5, attribute), bytes(7, "focal_loss")];
        let node = [names, rest.concat()].concat();
        let declared: Vec<u8> = inputs.iter().flat_map(|&(name, is_index)| bytes(11, value(name, is_index))).collect();
        let graph = [bytes(1, node), bytes(2, "graph"), declared, bytes(12, value("result", false))].concat();
        let opset = |domain: &str, version| bytes(8, [bytes(1, domain), number(2, version)].concat());
        [number(1, 8), bytes(7, graph), opset("", 17), opset("focal_loss", 1)].concat()
    }
}
