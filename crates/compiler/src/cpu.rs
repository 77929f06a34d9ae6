use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use wasmtime::Config;

/// What x86-64-v2 is called on the command line.
const BASELINE: &str = "x86-64-v2";
/// What this machine's CPU is called.
const NATIVE: &str = "native";

/// The CPU features that compiled code may use: exactly these.
///
/// It is written as the features' names, comma-separated, in alphabetical order. Where it is read, `x86-64-v2` stands for
/// the five features that it has and `native` for what this machine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu(BTreeSet<&'static str>);

/// A word that names no feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuError(pub String);

impl fmt::Display for CpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: Vec<_> = engine::FEATURES.iter().map(|(name, _)| *name).collect();
        write!(f, "{:?} is not a CPU feature: known are {NATIVE}, {BASELINE}, {}", self.0, known.join(", "))
    }
}

impl std::error::Error for CpuError {}

impl Cpu {
    /// No feature beyond those that every x86-64 CPU has.
    pub fn none() -> Self {
        Self(BTreeSet::new())
    }

    /// What every x86-64-v2 CPU has.
    pub fn baseline() -> Self {
        Self(engine::BASELINE.into())
    }

    /// What this machine's CPU has and its operating system saves. The baseline is in it without being looked for:
    /// the library OS itself would not run without.
    pub fn native() -> Self {
        let known = engine::FEATURES.iter().map(|(name, _)| *name);
        let mut cpu = Self::baseline();
        cpu.0.extend(known.filter(|name| is_native(name)));
        cpu
    }

    /// Tells the engine's compiler.
    #[allow(unsafe_code)]
    pub(crate) fn enable(&self, config: &mut Config) {
        for (_, flag) in engine::FEATURES.iter().filter(|(name, _)| self.0.contains(name)) {
            // SAFETY: unsafe because a setting may change what compiled code relies on. These only let the compiler
            // use more instructions; the code is not run here, and whoever loads it checks the list against its CPU.
            unsafe { config.cranelift_flag_enable(flag) };
        }
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{name}")?;
        }
        Ok(())
    }
}

impl FromStr for Cpu {
    type Err = CpuError;

    fn from_str(words: &str) -> Result<Self, CpuError> {
        let mut cpu = Self::none();
        for word in words.split(',') {
            match word {
                BASELINE => cpu.0.extend(Self::baseline().0),
                NATIVE => cpu.0.extend(Self::native().0),
                name => {
                    let known = engine::FEATURES.iter().find(|(known, _)| *known == name);
                    let (known, _) = known.ok_or_else(|| CpuError(String::from(name)))?;
                    cpu.0.insert(known);
                }
            }
        }
        Ok(cpu)
    }
}

/// Asks CPUID, and XCR0 where the feature has registers of its own. The standard library's question takes only
/// literals.
fn is_native(feature: &str) -> bool {
    macro_rules! ask {
        ($($name:tt)*) => {
            match feature {
                $($name => std::is_x86_feature_detected!($name),)*
                _ => false,
            }
        };
    }
    ask!("avx" "avx2" "avx512bitalg" "avx512dq" "avx512f" "avx512vbmi" "avx512vl" "avx512vnni" "avxvnni" "bmi1" "bmi2"
        "fma" "lzcnt" "popcnt" "sse3" "sse4.1" "sse4.2" "ssse3")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_written_sorted() {
        let cpu: Cpu = "fma,avx,sse4.1,avx".parse().unwrap();
        assert_eq!(cpu.to_string(), "avx,fma,sse4.1");
        assert_eq!(cpu.to_string().parse(), Ok(cpu));
    }

    #[test]
    fn short_names_stand_for_their_features() {
        let baseline: Cpu = "x86-64-v2".parse().unwrap();
        assert_eq!(baseline.to_string(), "popcnt,sse3,sse4.1,sse4.2,ssse3");
        let native: Cpu = "native".parse().unwrap();
        assert!(native.0.is_superset(&baseline.0));
        assert_eq!(
            "x86-64-v2,lzcnt".parse::<Cpu>().unwrap().to_string(),
            "lzcnt,popcnt,sse3,sse4.1,sse4.2,ssse3"
        );
    }

    #[test]
    fn unknown_words_are_named() {
        for word in ["", "sse2", "AVX", "avx,", "has_avx", "avx512"] {
            let wrong = word.split(',').next_back().unwrap();
            assert_eq!(word.parse::<Cpu>(), Err(CpuError(String::from(wrong))), "{word:?}");
        }
    }

    #[test]
    fn features_are_in_the_order_that_artifacts_list_them_and_fit_the_field() {
        let names: Vec<_> = engine::FEATURES.iter().map(|(name, _)| *name).collect();
        assert!(names.is_sorted());
        assert!(names.join(",").len() <= 512);
    }

    #[test]
    fn every_feature_can_be_looked_for() {
        // The kernel's list is the other witness; it calls some features by older names, and some are young.
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags: BTreeSet<_> =
            cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap().split_whitespace().collect();
        for (name, _) in engine::FEATURES {
            let linux = match name {
                "sse3" => "pni",
                "sse4.1" => "sse4_1",
                "sse4.2" => "sse4_2",
                "lzcnt" => "abm",
                "avx512bitalg" => "avx512_bitalg",
                "avx512vnni" => "avx512_vnni",
                "avxvnni" => "avx_vnni",
                name => name,
            };
            assert_eq!(is_native(name), flags.contains(linux), "{name}");
        }
    }
}
