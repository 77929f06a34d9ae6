;; Wants a function that nobody serves, and one of WASI's namespace that WASI does not have.
(module
  (import "env" "launch_missiles" (func $launch_missiles (param i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_levitate" (func (param i32) (result i32)))
  (func (export "_start") (call $launch_missiles (i32.const 1))))
