//! Cache chains: written, read, and built from.

use std::collections::BTreeMap;
use std::sync::Arc;

use quern_core::Digest;
use quern_solver::{
    CacheBlobs, CacheChains, CacheConfigError, CacheError, CacheExportMode, CacheExportOptions,
    CacheExportResult, CacheExporterTarget, CacheLink, CacheManager, Descriptor, Edge, ImportedCache,
    LayerLoader, LayoutFolder, Remote, SharedResult, Solver, SolverOptions, Timestamp, VertexOptions,
    export_cache, import_cache,
};

use crate::fakes::{Fake, chain, digest, on, vertex};

fn layer(text: &str, media_type: &str) -> Descriptor {
    let (digest, size) = (digest(text), text.len() as u64);
    Descriptor { media_type: media_type.into(), digest, size, annotations: BTreeMap::new() }
}

fn result(texts: &[&str], at: u64) -> CacheExportResult {
    let descriptors =
        texts.iter().map(|text| layer(text, "application/vnd.oci.image.layer.v1.tar")).collect();
    CacheExportResult { created_at: Timestamp(at), remote: Remote { descriptors }, vertex: None }
}

/// foo and bar, and baz made of foo or a part of bar, with two layers.
fn simple(chains: &mut CacheChains, backwards: bool) {
    let mut roots =
        [digest("foo"), digest("bar")].map(|d| chains.add(d, &[], &[]).unwrap().unwrap()).to_vec();
    let mut inputs = vec![
        CacheLink { source: roots[0], selector: None },
        CacheLink { source: roots[1], selector: Some(digest("sel0")) },
    ];
    if backwards {
        roots.reverse();
        inputs.reverse();
    }
    chains.add(digest("baz"), &[inputs], &[result(&["d0", "d1"], 7)]).unwrap();
}

#[test]
fn chains_are_written_alike_whatever_the_order() {
    let mut chains = CacheChains::new();
    simple(&mut chains, false);
    let (config, layers) = chains.marshal();
    simple(&mut chains, true);
    assert_eq!(chains.marshal().0, config, "adding again changes nothing");
    let json: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let parents: Vec<i64> =
        json["layers"].as_array().unwrap().iter().map(|l| l["parent"].as_i64().unwrap_or(0)).collect();
    assert_eq!((layers.len(), parents.iter().filter(|p| **p == -1).count()), (2, 1));
    let records = json["records"].as_array().unwrap();
    assert_eq!(records.len(), 3);
    let digests: Vec<&str> = records.iter().map(|r| r["digest"].as_str().unwrap()).collect();
    assert!(digests.is_sorted());
    let baz = records.iter().find(|r| r["digest"] == digest("baz").to_string()).unwrap();
    assert_eq!(baz["inputs"][0].as_array().unwrap().len(), 2);
    assert!(baz["inputs"][0].as_array().unwrap().iter().any(|i| i["selector"] == digest("sel0").to_string()));
    let mut other = CacheChains::new();
    other.add(digest("bar"), &[], &[]).unwrap();
    simple(&mut other, true);
    assert_eq!(other.marshal().0, config);
    chains.add(digest("more"), &[], &[]).unwrap();
    assert_eq!(chains.len(), 4);
}

#[test]
fn layer_types_become_those_of_oci() {
    let mut chains = CacheChains::new();
    let root = chains.add(digest("root"), &[], &[]).unwrap().unwrap();
    let docker = layer("d", "application/vnd.docker.image.rootfs.diff.tar.gzip");
    let remote = Remote { descriptors: vec![docker] };
    let made = CacheExportResult { created_at: Timestamp(1), remote, vertex: None };
    chains.add(digest("top"), &[vec![CacheLink { source: root, selector: None }]], &[made]).unwrap();
    assert_eq!(chains.marshal().1[0].media_type, "application/vnd.oci.image.layer.v1.tar+gzip");
}

#[test]
fn rings_lose_the_link_that_closes_them() {
    let mut chains = CacheChains::new();
    let root = chains.add(digest("root"), &[], &[]).unwrap().unwrap();
    let link = |source| CacheLink { source, selector: None };
    let a = chains.add(digest("a"), &[vec![link(root)]], &[]).unwrap().unwrap();
    let b = chains.add(digest("b"), &[vec![link(a)]], &[]).unwrap().unwrap();
    chains.add(digest("a"), &[vec![link(root), link(b)]], &[]).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&chains.marshal().0).unwrap();
    assert_eq!(json["records"].as_array().unwrap().len(), 3);
}

fn encode(value: &SharedResult) -> Result<Vec<Remote>, CacheError> {
    let text = value.get::<i64>().unwrap().to_string();
    Ok(vec![Remote { descriptors: vec![layer(&text, "application/octet-stream")] }])
}

/// Numbers below 100 by the digest of their text.
fn bytes_of(descriptor: &Descriptor) -> Result<Vec<u8>, CacheError> {
    let all = (0..100i64).map(|n| n.to_string().into_bytes());
    all.into_iter().find(|bytes| Digest::of(bytes) == descriptor.digest).ok_or(CacheError::NotFound)
}

fn loader(folder: &std::path::Path) -> LayerLoader {
    let layout = LayoutFolder::new(folder);
    Arc::new(move |remote| {
        let bytes = layout.read(&remote.descriptors[0].digest)?;
        let text = String::from_utf8(bytes).map_err(CacheError::storage)?;
        text.parse::<i64>().map(SharedResult::new).map_err(CacheError::storage)
    })
}

/// top <- middle <- bottom, each one more than the one below; with these caches besides the main one.
fn tower(sources: &[Arc<dyn CacheManager>], runs: &Arc<std::sync::atomic::AtomicUsize>) -> Edge {
    let counted = |seed: &str| {
        let runs = runs.clone();
        Fake::new(seed, move |_, inputs| {
            runs.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let sum: i64 = inputs.iter().map(|input| input.get::<i64>().unwrap()).sum();
            Ok(vec![SharedResult::new(sum + 1)])
        })
    };
    let options = || VertexOptions { cache_sources: sources.to_vec(), ..VertexOptions::default() };
    chain(vec![
        vertex("bottom", counted("bottom")).options(options()),
        vertex("middle", counted("middle")).input(on(0)).options(options()),
        vertex("top", counted("top")).input(on(1)).options(options()),
    ])
}

fn exported(folder: &std::path::Path, mode: CacheExportMode) -> Descriptor {
    let runs = Arc::default();
    let solver = Solver::new(SolverOptions::default());
    let result = solver.job("export").unwrap().build(&tower(&[], &runs)).unwrap();
    let (mut chains, mut again) = (CacheChains::new(), CacheChains::new());
    let options = CacheExportOptions { mode, convert: Some(&encode), ..CacheExportOptions::default() };
    result.keys()[0].export_to(&mut chains, &options).unwrap();
    for _ in 0..2 {
        result.keys()[0].export_to(&mut again, &options).unwrap();
    }
    assert_eq!(again.marshal(), chains.marshal(), "equal content gives equal bytes");
    export_cache(&chains, &LayoutFolder::new(folder), "latest", &bytes_of).unwrap()
}

#[test]
fn export_wipe_import_build_runs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    exported(folder.path(), CacheExportMode::Max);
    for lazily in [false, true] {
        let path = folder.path().to_path_buf();
        let fetch = move || import_cache("layout", &LayoutFolder::new(&path), "latest", loader(&path));
        let source: Arc<dyn CacheManager> =
            if lazily { Arc::new(ImportedCache::new("lazy", fetch)) } else { Arc::new(fetch().unwrap()) };
        let runs = Arc::default();
        let solver = Solver::new(SolverOptions::default());
        let result = solver.job("import").unwrap().build(&tower(&[source], &runs)).unwrap();
        assert_eq!(result.get::<i64>(), Some(&3));
        assert_eq!(runs.load(std::sync::atomic::Ordering::SeqCst), 0, "lazily: {lazily}");
        // What was loaded is in the main cache now.
        let solver_job = solver.job("again").unwrap();
        assert_eq!(solver_job.build(&tower(&[], &runs)).unwrap().get::<i64>(), Some(&3));
        assert_eq!(runs.load(std::sync::atomic::Ordering::SeqCst), 0);
    }
}

#[test]
fn an_import_never_blocks_a_local_hit_and_may_fail() {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let source = Arc::new(ImportedCache::new("slow", move || {
        let _ = held.recv();
        Err(CacheConfigError::NotFound("nothing".into()))
    }));
    let runs = Arc::default();
    let solver = Solver::new(SolverOptions::default());
    let first = solver.job("fill").unwrap();
    first.build(&tower(&[], &runs)).unwrap();
    first.discard();
    let sources: [Arc<dyn CacheManager>; 1] = [source.clone()];
    let job = solver.job("hit").unwrap();
    assert_eq!(job.build(&tower(&sources, &runs)).unwrap().get::<i64>(), Some(&3));
    assert_eq!(runs.load(std::sync::atomic::Ordering::SeqCst), 3);
    job.discard();
    let empty = Solver::new(SolverOptions::default());
    let releaser = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(30));
        drop(hold);
    });
    let result = empty.job("miss").unwrap().build(&tower(&sources, &runs)).unwrap();
    assert_eq!(result.get::<i64>(), Some(&3), "a failed import is an empty cache");
    assert!(matches!(source.failure(), Some(CacheConfigError::NotFound(_))));
    releaser.join().unwrap();
}

#[test]
fn broken_configurations_are_typed_errors() {
    let folder = tempfile::tempdir().unwrap();
    let d = digest("x").to_string();
    let import = |config: &str| {
        let layout = LayoutFolder::new(folder.path());
        let bytes = config.as_bytes();
        layout.write(&Digest::of(bytes), bytes).unwrap();
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.buildkit.cacheconfig.v0","digest":"{}","size":1}}}}"#,
            Digest::of(bytes)
        );
        layout.write(&Digest::of(manifest.as_bytes()), manifest.as_bytes()).unwrap();
        let descriptor = layer(&manifest, "application/vnd.oci.image.manifest.v1+json");
        layout.publish("test", &descriptor).unwrap();
        import_cache("test", &layout, "test", loader(folder.path())).map(|_| ())
    };
    assert!(import(&format!(r#"{{"records":[{{"digest":"{d}"}}]}}"#)).is_ok());
    let ring = format!(
        r#"{{"records":[{{"digest":"{d}","inputs":[[{{"link":1}}]]}},{{"digest":"{d}","inputs":[[{{"link":0}}]]}}]}}"#
    );
    assert!(matches!(import(&ring), Err(CacheConfigError::Loop { what: "records", .. })));
    let dangling = format!(r#"{{"records":[{{"digest":"{d}","inputs":[[{{"link":9}}]]}}]}}"#);
    assert!(matches!(
        import(&dangling),
        Err(CacheConfigError::UnknownRecord { record: 0, input: 0, link: 9 })
    ));
    let no_layer = format!(r#"{{"records":[{{"digest":"{d}","layers":[{{"layer":3}}]}}]}}"#);
    assert!(matches!(
        import(&no_layer),
        Err(CacheConfigError::UnknownLayer { whose: "record", layer: 3, .. })
    ));
    let layers =
        format!(r#"{{"layers":[{{"blob":"{d}"}}],"records":[{{"digest":"{d}","layers":[{{"layer":0}}]}}]}}"#);
    assert!(matches!(import(&layers), Err(CacheConfigError::Loop { what: "layers", .. })));
    assert!(matches!(import("{"), Err(CacheConfigError::Malformed { what: "configuration", .. })));
    let layout = LayoutFolder::new(folder.path());
    let unknown = import_cache("t", &layout, "unknown", loader(folder.path()));
    assert!(matches!(unknown.map(|_| ()), Err(CacheConfigError::NotFound(_))));
    exported(folder.path(), CacheExportMode::Max);
    let manifest = layout.manifest("latest").unwrap().unwrap();
    layout.write(&manifest.digest, b"{}").unwrap();
    let wrong = import_cache("t", &layout, "latest", loader(folder.path()));
    assert!(matches!(wrong.map(|_| ()), Err(CacheConfigError::WrongContent(_))));
}

/// A key refers to those of its inputs; dropping the last of a long chain must not recurse.
#[test]
fn a_result_of_a_long_chain_outlives_its_job() {
    let mut vertices = vec![vertex("0", Fake::value("0", 1).quick())];
    for level in 1..30_000u32 {
        let op = Fake::new(&level.to_string(), |_, _| Ok(vec![SharedResult::new(1i64)])).quick();
        vertices.push(vertex(&level.to_string(), op).input(on(level - 1)));
    }
    let edge = chain(vertices);
    let solver = Solver::new(SolverOptions::default());
    for name in ["ran", "swept"] {
        let job = solver.job(name).unwrap();
        let result = job.build(&edge).unwrap();
        job.discard();
        let mut chains = CacheChains::new();
        result.keys()[0].export_to(&mut chains, &CacheExportOptions::default()).unwrap();
        drop(result);
    }
}
