//! The text that Prometheus reads.

use control::*;

fn system() -> System {
    let program = Program {
        name: "web/0".into(),
        state: State::Backoff { until_ns: 7 },
        started_ns: Some(1),
        last_end: Some(End::Exited { status: 3 }),
        ended_ns: Some(2),
        restarts: 4,
        usage: ProcessUsage {
            host_bytes: 4096,
            memory: Memory { used_bytes: 512, peak_bytes: 1024 },
            cpu_ns: 250_000_000,
            switches: 6,
            migrations: 2,
        },
        log: LogSize { lines: 5, bytes: 60, lines_dropped: 1 },
    };
    let idle = Program { name: "idle".into(), state: State::Running, last_end: None, ..program.clone() };
    let usage = Usage {
        memory: Memory { used_bytes: 4096, peak_bytes: 8192 },
        cpu_ns: 1_500_000_000,
        counters: Counters { faults: Some(9), ..Counters::default() },
    };
    System {
        name: "s".into(),
        platform: Platform::Hosted,
        phase: Phase::Up,
        uptime_ns: 2_000_000_001,
        started_unix_ns: None,
        cpus: Vec::new(),
        domains: vec![Domain {
            name: "a\"\\\nb".into(),
            process_id: None,
            memory_quota_bytes: 1 << 20,
            usage,
            programs: vec![program, idle],
        }],
    }
}

#[test]
fn samples_are_labelled_and_in_base_units() {
    let text = metrics(&system());
    for line in [
        "selkis_up_seconds 2.000000001",
        "selkis_ending 0",
        r#"selkis_domain_memory_bytes{domain="a\"\\\nb"} 4096"#,
        r#"selkis_domain_cpu_seconds_total{domain="a\"\\\nb"} 1.500000000"#,
        r#"selkis_domain_faults_total{domain="a\"\\\nb"} 9"#,
        r#"selkis_program_memory_bytes{domain="a\"\\\nb",program="web/0"} 512"#,
        r#"selkis_program_memory_peak_bytes{domain="a\"\\\nb",program="web/0"} 1024"#,
        r#"selkis_program_host_memory_bytes{domain="a\"\\\nb",program="web/0"} 4096"#,
        r#"selkis_program_cpu_seconds_total{domain="a\"\\\nb",program="web/0"} 0.250000000"#,
        r#"selkis_program_switches_total{domain="a\"\\\nb",program="web/0"} 6"#,
        r#"selkis_program_migrations_total{domain="a\"\\\nb",program="web/0"} 2"#,
        r#"selkis_program_restarts_total{domain="a\"\\\nb",program="web/0"} 4"#,
        r#"selkis_program_last_exit_status{domain="a\"\\\nb",program="web/0"} 3"#,
        r#"selkis_program_state{domain="a\"\\\nb",program="web/0",state="backoff"} 1"#,
        r#"selkis_program_state{domain="a\"\\\nb",program="web/0",state="running"} 0"#,
        r#"selkis_program_state{domain="a\"\\\nb",program="idle",state="running"} 1"#,
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn what_is_not_known_is_left_out() {
    let text = metrics(&system());
    for name in ["upcalls", "selkis_cpu", r#"last_exit_status{domain="a\"\\\nb",program="idle""#] {
        assert!(!text.contains(name), "{name} is in\n{text}");
    }
}

/// Each family once, its head before its samples.
#[test]
fn families_have_heads() {
    let mut system = system();
    system.cpus = vec![Cpu::default(), Cpu { interrupts: 3, ..Cpu::default() }];
    let text = metrics(&system);
    assert!(text.contains("selkis_cpu_interrupts_total{cpu=\"1\"} 3\n"), "{text}");
    let mut families: Vec<&str> = Vec::new();
    for line in text.lines() {
        let family = line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ");
        let family = family.split([' ', '{']).next().unwrap();
        if families.last() != Some(&family) {
            assert!(line.starts_with("# HELP "), "{line}");
            assert!(!families.contains(&family), "{family} twice");
            families.push(family);
        }
    }
    assert!(families.len() > 15, "{families:?}");
}
