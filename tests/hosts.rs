//! Several ONNX Runtimes in one process, each with tables, threads and memory of its own, and one copy of the library
//! that is registered with all of them.
//!
//! They are those of the wheels in the virtual environments under `target`, and a copy of the newest in another file, so
//! that there are at least two. `HOSTS_WANTED`: how many versions there must be.

mod common;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::Barrier;
use std::{env, fs, thread};

use common::{hosts_in, library, onnx};
use focal_loss::{Inputs, Options, Reduction, Targets, forward};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};
use ndarray::{Array1, Array2};
use ort_sys::{
    ONNXTensorElementDataType as OrtType, OrtAllocatorType, OrtApi, OrtApiBase, OrtEnv, OrtLoggingLevel, OrtMemType,
    OrtSession, OrtSessionOptions, OrtStatusPtr, OrtValue,
};

const ROWS: usize = 3000;
const CLASSES: usize = 40;

/// An ONNX Runtime that was loaded from a file, invisible to the others.
struct Host {
    api: *const OrtApi,
    environment: *mut OrtEnv,
    version: String,
    library: Library,
}

// SAFETY: the table may be used by any thread, and the environment is only read.
unsafe impl Sync for Host {}

/// Calls an entry of the host's table; a status becomes its message.
macro_rules! call {
    ($host:expr, $entry:ident $(, $argument:expr)*) => {{
        let status = ((*$host.api).$entry)($($argument),*);
        $host.check(status)
    }};
}

impl Host {
    fn load(path: &Path) -> Self {
        // SAFETY: ONNX Runtime, whose entry gives the table of its functions.
        unsafe {
            let library = Library::open(Some(path), RTLD_NOW | RTLD_LOCAL).expect("it can be loaded");
            let base: Symbol<unsafe extern "C" fn() -> *const OrtApiBase> =
                library.get(b"OrtGetApiBase").expect("its entry");
            let base = base();
            let api = ((*base).GetApi)(17);
            assert!(!api.is_null());
            let version = CStr::from_ptr(((*base).GetVersionString)()).to_string_lossy().into_owned();
            let mut host = Self { api, environment: null_mut(), version, library };
            let level = OrtLoggingLevel::ORT_LOGGING_LEVEL_FATAL;
            let mut environment = null_mut();
            call!(host, CreateEnv, level, c"hosts".as_ptr(), &mut environment).expect("an environment");
            host.environment = environment;
            host
        }
    }

    /// # Safety
    /// A status of this host's.
    unsafe fn check(&self, status: OrtStatusPtr) -> Result<(), String> {
        if status.0.is_null() {
            return Ok(());
        }
        // SAFETY: by the contract above; released once.
        unsafe {
            let message = CStr::from_ptr(((*self.api).GetErrorMessage)(status.0)).to_string_lossy().into_owned();
            ((*self.api).ReleaseStatus)(status.0);
            Err(message)
        }
    }

    fn session(&self, reduction: &str, threads: i32) -> Result<Session<'_>, String> {
        let model = onnx::model("SigmoidFocalLoss", &[("logits", false), ("targets", true)], reduction);
        let path = CString::new(library().to_str().expect("a path in UTF-8")).expect("no NUL");
        let mut options: *mut OrtSessionOptions = null_mut();
        let mut session = null_mut();
        // SAFETY: the host's functions with what it made; the model and the path live until the last call.
        unsafe {
            call!(self, CreateSessionOptions, &mut options)?;
            let made = call!(self, SetIntraOpNumThreads, options, threads)
                .and_then(|()| call!(self, RegisterCustomOpsLibrary_V2, options, path.as_ptr()))
                .and_then(|()| {
                    let data = model.as_ptr().cast::<c_void>();
                    call!(self, CreateSessionFromArray, self.environment, data, model.len(), options, &mut session)
                });
            ((*self.api).ReleaseSessionOptions)(options);
            made?;
        }
        Ok(Session { host: self, session })
    }

    fn tensor<T>(&self, values: &[T], shape: &[i64], kind: OrtType) -> Result<Value<'_>, String> {
        let (mut memory, mut value) = (null_mut(), null_mut());
        // SAFETY: the values outlive the tensor, in the only function that makes one, and are only read.
        unsafe {
            let allocator = OrtAllocatorType::OrtArenaAllocator;
            call!(self, CreateCpuMemoryInfo, allocator, OrtMemType::OrtMemTypeDefault, &mut memory)?;
            let data = values.as_ptr().cast_mut().cast();
            let bytes = size_of_val(values);
            let made = call!(
                self,
                CreateTensorWithDataAsOrtValue,
                memory,
                data,
                bytes,
                shape.as_ptr(),
                shape.len(),
                kind,
                &mut value
            );
            ((*self.api).ReleaseMemoryInfo)(memory);
            made?;
        }
        Ok(Value { host: self, value })
    }

    /// Ends the host. Whether it has left memory.
    fn unload(self, path: &Path) -> bool {
        // SAFETY: sessions and values borrow the host, so there are none.
        unsafe { ((*self.api).ReleaseEnv)(self.environment) };
        self.library.close().expect("it can be closed");
        let maps = fs::read_to_string("/proc/self/maps").expect("Linux has it");
        !maps.contains(path.to_str().expect("a path in UTF-8"))
    }
}

struct Value<'a> {
    host: &'a Host,
    value: *mut OrtValue,
}

impl Drop for Value<'_> {
    fn drop(&mut self) {
        // SAFETY: the host's, released once.
        unsafe { ((*self.host.api).ReleaseValue)(self.value) }
    }
}

struct Session<'a> {
    host: &'a Host,
    session: *mut OrtSession,
}

impl Session<'_> {
    fn run(&self, logits: &[f32], targets: &[i64]) -> Result<Vec<f32>, String> {
        let host = self.host;
        let shape = [ROWS as i64, CLASSES as i64];
        let inputs = [
            host.tensor(logits, &shape, OrtType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)?,
            host.tensor(targets, &shape[..1], OrtType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64)?,
        ];
        let values: [*const OrtValue; 2] = [inputs[0].value, inputs[1].value];
        let names: [*const c_char; 2] = [c"logits".as_ptr(), c"targets".as_ptr()];
        let result = [c"result".as_ptr()];
        let mut output = null_mut();
        let (mut data, mut info, mut count) = (null_mut(), null_mut(), 0);
        // SAFETY: the host's functions with what it made; the result is copied while its value lives.
        unsafe {
            let output = {
                call!(
                    host,
                    Run,
                    self.session,
                    null(),
                    names.as_ptr(),
                    values.as_ptr(),
                    2,
                    result.as_ptr(),
                    1,
                    &mut output
                )?;
                Value { host, value: output }
            };
            call!(host, GetTensorTypeAndShape, output.value, &mut info)?;
            let counted = call!(host, GetTensorShapeElementCount, info, &mut count);
            ((*host.api).ReleaseTensorTypeAndShapeInfo)(info);
            counted?;
            call!(host, GetTensorMutableData, output.value, &mut data)?;
            Ok(std::slice::from_raw_parts(data.cast::<f32>(), count).to_vec())
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // SAFETY: the host's, released once.
        unsafe { ((*self.host.api).ReleaseSession)(self.session) }
    }
}

fn problem() -> (Array2<f32>, Array1<i64>) {
    let logits = Array2::from_shape_fn((ROWS, CLASSES), |(i, j)| ((i * 31 + j * 17) % 101) as f32 / 8.0 - 6.0);
    (logits, Array1::from_shape_fn(ROWS, |i| (i * 7 % (CLASSES + 1)) as i64))
}

/// Sessions of this host give the bits of the Rust API, and an error of its own where a row is wrong.
fn exercise(host: &Host, rounds: usize) {
    let (logits, targets) = problem();
    let (shared, indices) = (logits.clone().into_dyn(), targets.clone().into_dyn());
    for (name, reduction) in [("none", Reduction::None), ("mean", Reduction::Mean)] {
        let options = Options { reduction, ..Options::default() };
        let expected = forward(&options, &Inputs::new(shared.view(), Targets::I64(indices.view()))).expect("a loss");
        let expected: Vec<u32> = expected.iter().map(|value| value.to_bits()).collect();
        for round in 0..rounds {
            let session = host.session(name, 1 + round as i32 % 3).expect("a session");
            let (logits, targets) = (logits.as_slice().expect("dense"), targets.as_slice().expect("dense"));
            let found: Vec<u32> =
                session.run(logits, targets).expect("a run").iter().map(|value| value.to_bits()).collect();
            assert!(found == expected, "ONNX Runtime {}, {name}: other bits", host.version);
            let mut wrong = targets.to_vec();
            wrong[17] = -3;
            let error = session.run(logits, &wrong).expect_err("row 17");
            assert!(error.contains("-3") && error.contains("row 17"), "ONNX Runtime {}: {error}", host.version);
        }
        let error = host.session("average", 1).err().expect("an unknown reduction");
        assert!(error.contains("average"), "ONNX Runtime {}: {error}", host.version);
    }
}

/// By name, each version once.
fn files() -> Vec<std::path::PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let names = fs::read_dir(target).into_iter().flatten().flatten();
    let environments = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let found =
        environments.filter(|name| name == "venv" || name.starts_with("venv-ort-")).flat_map(|name| hosts_in(&name));
    let versions: BTreeMap<_, _> = found.map(|path| (path.file_name().map(ToOwned::to_owned), path)).collect();
    versions.into_values().collect()
}

/// One test, so that nothing else is loaded meanwhile.
#[test]
fn one_library_serves_every_onnx_runtime_of_a_process() {
    let mut paths = files();
    let wanted = env::var("HOSTS_WANTED").map_or(1, |number| number.parse().expect("a number"));
    assert!(paths.len() >= wanted, "{} versions of ONNX Runtime under target, not {wanted}: {paths:?}", paths.len());
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("another_onnxruntime.so");
    fs::copy(paths.last().expect("`make test-rust` installs one"), &copy).expect("a copy");
    paths.push(copy);

    // Each for itself, one after the other, and each again at once: where the system has unloaded one, the next, which may
    // be the same, can be in its place.
    for path in paths.iter().chain(paths.iter().rev()).flat_map(|path| [path, path]) {
        let host = Host::load(path);
        exercise(&host, 1);
        let version = host.version.clone();
        let gone = host.unload(path);
        println!("ONNX Runtime {version}: {}", if gone { "unloaded" } else { "stays in memory when it is closed" });
    }

    // All at once.
    let hosts: Vec<Host> = paths.iter().map(|path| Host::load(path)).collect();
    println!("together: {}", hosts.iter().map(|host| host.version.as_str()).collect::<Vec<_>>().join(", "));
    let tables: std::collections::HashSet<_> = hosts.iter().map(|host| host.api).collect();
    assert_eq!(tables.len(), hosts.len(), "each is a host of its own");
    let barrier = Barrier::new(2 * hosts.len());
    thread::scope(|scope| {
        for host in hosts.iter().chain(&hosts) {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                exercise(host, 10);
            });
        }
    });
}
