//! What no well-meaning compiler writes: damaged modules, wrong files, and modules that are as deep as they may be. All of
//! it ends in an artifact or in an error. (A panic or a crash ends the test's process.)

use bundle::artifact;
use compiler::{CompileError, Compiled, Compiler, Cpu, Import};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

fn compiler() -> Compiler {
    Compiler::new(Cpu::baseline()).unwrap()
}

fn sampler() -> Vec<u8> {
    wat::parse_str(include_str!("sampler.wat")).unwrap()
}

fn compile(program: &[u8]) -> Result<Compiled, CompileError> {
    compiler().compile(program)
}

/// A function body's bytes in a module of their own, with one parameter and one result.
fn module_of(body: &[u8]) -> Vec<u8> {
    let mut code = vec![1];
    leb(&mut code, body.len() + 2);
    code.push(0);
    code.extend_from_slice(body);
    code.push(0x0b);
    let mut module =
        b"\0asm\x01\0\0\0\x01\x06\x01\x60\x01\x7f\x01\x7f\x03\x02\x01\0\x05\x03\x01\0\x01\x0a".to_vec();
    leb(&mut module, code.len());
    module.extend_from_slice(&code);
    module
}

fn leb(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn seeded(cases: u32) -> TestRunner {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]))
}

/// 1,000 from one seed: half of them cut, half with a flipped bit.
#[test]
fn a_thousand_damaged_modules() {
    let (compiler, whole) = (compiler(), sampler());
    let refused = std::cell::Cell::new((0, 0));
    let run = seeded(1000).run(&(any::<bool>(), 0..whole.len() * 8), |(is_cut, bit)| {
        let mut module = whole.clone();
        match is_cut {
            true => module.truncate(bit / 8),
            false => module[bit / 8] ^= 1 << (bit % 8),
        }
        match compiler.compile(&module) {
            Ok(compiled) => {
                let bytes = [compiled.header(), compiled.payload.clone()].concat();
                let (origin, payload) = artifact::parse(&bytes).unwrap();
                prop_assert_eq!((&origin, payload), (&compiled.origin, &compiled.payload[..]));
            }
            Err(error) => {
                prop_assert!(!error.to_string().contains('\n'), "{error}");
                let (cuts, flips) = refused.get();
                refused.set(if is_cut { (cuts + 1, flips) } else { (cuts, flips + 1) });
            }
        }
        Ok(())
    });
    run.unwrap();
    // A cut leaves a valid module only where it ends between two sections that need nothing later; a flipped bit is
    // often only another constant.
    let (cuts, flips) = refused.get();
    assert!(cuts > 450 && flips > 150, "{cuts} cuts and {flips} flips refused");
}

/// What is thrown has few types, so that what the engine notes of them is little.
#[test]
fn tags_are_counted() {
    let tags = |count| compile(format!("(module {})", "(tag)".repeat(count)).as_bytes());
    assert!(tags(256).is_ok());
    assert!(matches!(tags(257), Err(CompileError::Unsupported { reason }) if reason.contains("256 tags")));
}

/// An artifact is no program, damaged or not.
#[test]
fn artifacts_are_not_modules() {
    let compiled = compile(&sampler()).unwrap();
    let whole = [compiled.header(), compiled.payload].concat();
    for artifact in [&whole[..], &whole[..100], &whole[4096..]] {
        assert_eq!(compile(artifact), Err(CompileError::NotWebAssembly));
    }
}

#[test]
fn the_same_module_gives_the_same_bytes() {
    let first = compile(&sampler()).unwrap();
    assert_eq!(compile(&sampler()).unwrap(), first);
    let native = Compiler::new(Cpu::native()).unwrap().compile(&sampler()).unwrap();
    assert_eq!(native.origin.compiler, first.origin.compiler);
    assert_eq!(native.origin.features, Cpu::native().to_string());
}

#[test]
fn names_of_functions_survive_and_symbols_do_not() {
    let payload = compile(&sampler()).unwrap().payload;
    let count = |name: &[u8]| payload.windows(name.len()).filter(|window| *window == name).count();
    assert_eq!(count(b"factorial"), 2, "as an export and as a function's name");
    assert_eq!(count(b"checked"), 1);
    assert_eq!(count(b"wasm[0]::function"), 0);
    assert_eq!(count(b".wasmtime.addrmap"), 0);
}

#[test]
fn the_trap_helper_exports_its_trap() {
    let helper = compiler().trap_helper().unwrap();
    let exports: Vec<_> =
        helper.interface.exports.iter().map(|export| (&*export.name, export.kind)).collect();
    assert_eq!(exports, [("trap", "function")]);
    assert!(helper.interface.imports.is_empty());
}

#[test]
fn files_of_other_kinds_are_named() {
    let is = |program: &[u8], error: CompileError| assert_eq!(compile(program), Err(error), "{program:?}");
    for program in
        [&b""[..], b"\0", b"\0asn\x01\0\0\0", b"\x7fELF", b"#!/bin/sh\n", b"hello", b"\xff(module)"]
    {
        is(program, CompileError::NotWebAssembly);
    }
    is(b"\0asm\x0d\0\x01\0", CompileError::Component);
    is(b"(component)", CompileError::Component);
    is(b"\0asm\x02\0\0\0", CompileError::Version { version: 2 });
    is(b"\0asm\x01\0", CompileError::Invalid { offset: 6, reason: String::from("unexpected end-of-file") });
}

#[test]
fn text_is_compiled_and_its_mistakes_have_a_place() {
    let program = b"\n ;; a comment\n (module (func (export \"f\")))";
    assert_eq!(compile(program).unwrap().interface.exports[0].name, "f");
    let reason = |program: &[u8]| match compile(program) {
        Err(CompileError::Text { reason }) => reason,
        other => panic!("{other:?}"),
    };
    assert!(reason(b"(module\n  (func i32.oops))").starts_with("line 2, column 9: "));
    assert!(reason(b"(").starts_with("line 1, column 2: "));
    let deep = [vec![b'('; 1_000_000], vec![b')'; 1_000_000]].concat();
    assert!(!reason(&deep).is_empty());
    assert!(!reason(b"(module \xff)").is_empty());
}

#[test]
fn an_invalid_module_is_refused_with_place_and_reason() {
    let error = compile(&module_of(b"")).unwrap_err();
    let CompileError::Invalid { offset, reason } = &error else { panic!("{error:?}") };
    assert_eq!(*offset, module_of(b"").len() - 1);
    assert!(reason.contains("expected i32 but nothing on stack"), "{reason}");
    assert!(error.to_string().contains(&format!("{offset:#x}")), "{error}");
}

#[test]
fn proposals_that_are_off_are_named() {
    for (program, name) in [
        ("(module (memory 1 1 shared))", "threads"),
        (
            "(module (func (param i64 i64 i64 i64) (result i64 i64)
            local.get 0 local.get 1 local.get 2 local.get 3 i64.add128))",
            "wide-arithmetic",
        ),
        ("(module (memory 1 (pagesize 1)))", "custom-page-sizes"),
        ("(module (memory 1) (memory 1))", "multi-memory"),
        ("(module (type (array i8)))", "gc"),
        ("(module (memory 1 1 shared) (memory 1 (pagesize 1)))", "threads, multi-memory, custom-page-sizes"),
    ] {
        match compile(program.as_bytes()) {
            Err(CompileError::Proposal { proposal, .. }) => assert_eq!(proposal, name),
            other => panic!("{program}: {other:?}"),
        }
    }
}

#[test]
fn what_the_engine_cannot_compile_is_refused() {
    let mut body = b"\x02\x40\x20\0\x0e".to_vec();
    leb(&mut body, 100_000);
    body.extend(vec![0; 100_001]);
    body.extend(b"\x0b\x20\0");
    let error = compile(&module_of(&body)).unwrap_err();
    assert!(matches!(&error, CompileError::Unsupported { reason } if reason.contains("br_table")), "{error}");
}

/// Deeper than any stack would allow if each level took a frame of it.
#[test]
fn deep_nesting_is_compiled_or_refused() {
    const DEPTH: usize = 50_000;
    let [block, looped, branch] = [&b"\x02\x40"[..], b"\x03\x40", b"\x20\0\x04\x40"];
    for level in [block, looped, branch] {
        let body = [level.repeat(DEPTH), vec![0x0b; DEPTH], b"\x20\0".to_vec()].concat();
        compile(&module_of(&body)).unwrap();
    }
    let [sum, count, load] = [&b"\x20\0\x6a"[..], b"\x67", b"\x28\x02\0"];
    for operation in [sum, count, load] {
        let body = [b"\x20\0".to_vec(), operation.repeat(DEPTH)].concat();
        compile(&module_of(&body)).unwrap();
    }
    let operands = [b"\x20\0".repeat(DEPTH + 1), vec![0x6a; DEPTH]].concat();
    compile(&module_of(&operands)).unwrap();
}

/// Whatever names a module gives to what it asks for, they are told as they are, in order.
#[test]
fn imports_are_listed() {
    let names = proptest::collection::vec((".{0,12}", ".{0,12}", 0..4u8), 0..8);
    let compiler = compiler();
    let run = seeded(100).run(&names, |imports| {
        let (mut section, mut expected) = (vec![imports.len() as u8], Vec::new());
        for (module, name, kind) in &imports {
            for text in [module, name] {
                leb(&mut section, text.len());
                section.extend_from_slice(text.as_bytes());
            }
            let has_memory = expected.iter().any(|import: &Import| import.kind == "memory");
            let (description, kind): (&[u8], _) = match kind {
                0 => (b"\x00\x00", "function"),
                1 => (b"\x01\x70\x00\x01", "table"),
                2 if !has_memory => (b"\x02\x00\x01", "memory"),
                _ => (b"\x03\x7f\x00", "global"),
            };
            section.extend_from_slice(description);
            expected.push(Import { module: module.clone(), name: name.clone(), kind });
        }
        let mut module = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02".to_vec();
        leb(&mut module, section.len());
        module.extend_from_slice(&section);
        prop_assert_eq!(compiler.compile(&module).unwrap().interface.imports, expected);
        Ok(())
    });
    run.unwrap();
}
