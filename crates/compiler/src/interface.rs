use crate::CompileError;
use serde::Serialize;
use wasmtime::wasmparser::{ExternalKind, Parser, Payload, TypeRef};

/// What a module asks for and what it offers, in its own order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// What it asks for.
    pub imports: Vec<Import>,
    /// What it offers.
    pub exports: Vec<Export>,
}

/// Something that a module asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Import {
    /// Of whom.
    pub module: String,
    /// What.
    pub name: String,
    /// `function`, `table`, `memory`, `global` or `tag`.
    pub kind: &'static str,
}

/// Something that a module offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Export {
    /// What.
    pub name: String,
    /// As in [`Import`].
    pub kind: &'static str,
}

impl Interface {
    /// Reads it from a module.
    pub fn of(module: &[u8]) -> Result<Self, CompileError> {
        let mut interface = Self::default();
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        let (module, name) = (String::from(import.module), String::from(import.name));
                        interface.imports.push(Import { module, name, kind: import_kind(&import.ty) });
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        let name = String::from(export.name);
                        interface.exports.push(Export { name, kind: export_kind(export.kind) });
                    }
                }
                Payload::TagSection(section) if section.count() > engine::TAGS_MAX => {
                    let reason = format!("it has more than {} tags of exceptions", engine::TAGS_MAX);
                    return Err(CompileError::Unsupported { reason });
                }
                Payload::CodeSectionStart { .. } => break,
                _ => {}
            }
        }
        Ok(interface)
    }
}

fn import_kind(import: &TypeRef) -> &'static str {
    match import {
        TypeRef::Func(_) | TypeRef::FuncExact(_) => "function",
        TypeRef::Table(_) => "table",
        TypeRef::Memory(_) => "memory",
        TypeRef::Global(_) => "global",
        TypeRef::Tag(_) => "tag",
    }
}

fn export_kind(export: ExternalKind) -> &'static str {
    match export {
        ExternalKind::Func | ExternalKind::FuncExact => "function",
        ExternalKind::Table => "table",
        ExternalKind::Memory => "memory",
        ExternalKind::Global => "global",
        ExternalKind::Tag => "tag",
    }
}
