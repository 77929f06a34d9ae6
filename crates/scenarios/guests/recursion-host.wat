;; Recurses without end, and asks the host for something at each depth.
(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get" (func $stat (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "no/such/file")
  (func $asks_deeper (param $depth i32) (result i32)
    (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 8)))
    (drop (call $stat (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 12) (i32.const 128)))
    (i32.add (call $asks_deeper (i32.add (local.get $depth) (i32.const 1))) (i32.const 1)))
  (func (export "_start")
    (drop (call $asks_deeper (i32.const 0)))))
