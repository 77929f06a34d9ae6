;; Starts one `child` after the other, and waits for each, for ever; it writes a line after every 250.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "selkis_process" "spawn" (func $spawn (param i32 i32) (result i32)))
  (import "selkis_process" "wait" (func $wait (param i64 i64 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "child")
  (data (i32.const 16) "x\007\00")
  (data (i32.const 32) "more\n")
  (data (i32.const 64) "\00\00\00\00" "\05\00\00\00" "\10\00\00\00" "\04\00\00\00")
  ;; A buffer: the line.
  (data (i32.const 200) "\20\00\00\00" "\05\00\00\00")
  (func (export "_start") (local $count i32)
    (loop $again
      (if (call $spawn (i32.const 64) (i32.const 208)) (then (unreachable)))
      (if (call $wait (i64.load (i32.const 208)) (i64.const -1) (i32.const 216)) (then (unreachable)))
      ;; It has exited with 7, or had no CPU time left, for its parent has none.
      (if (i32.ne (i32.load (i32.const 228)) (select (i32.const 7) (i32.const 124) (i32.eqz (i32.load (i32.const 224)))))
        (then (unreachable)))
      (local.set $count (i32.add (local.get $count) (i32.const 1)))
      (if (i32.eqz (i32.rem_u (local.get $count) (i32.const 250)))
        (then (drop (call $fd_write (i32.const 1) (i32.const 200) (i32.const 1) (i32.const 240)))))
      (br $again))))
