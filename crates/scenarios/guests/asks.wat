;; Starts one `child` after the other, which stay, and asks on and on when it is refused: then it says so once. Passes its first directory on.
;; It ends with the errno if that is anything else than that there is no memory.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "selkis_process" "spawn" (func $spawn (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "child")
  (data (i32.const 16) "x\00z\00")
  (data (i32.const 32) "\03\00\00\00")
  ;; The record: program, arguments, no environment, directories.
  (data (i32.const 64) "\00\00\00\00" "\05\00\00\00" "\10\00\00\00" "\04\00\00\00" "\00\00\00\00" "\00\00\00\00" "\20\00\00\00" "\01\00\00\00")
  (data (i32.const 160) "refused\n")
  ;; A buffer: the line.
  (data (i32.const 200) "\a0\00\00\00" "\08\00\00\00")
  (func (export "_start") (local $errno i32) (local $has_said i32)
    (loop $again
      (br_if $again (i32.eqz (local.tee $errno (call $spawn (i32.const 64) (i32.const 224)))))
      (if (i32.ne (local.get $errno) (i32.const 48)) (then (call $exit (local.get $errno))))
      (if (i32.eqz (local.get $has_said))
        (then (drop (call $fd_write (i32.const 1) (i32.const 200) (i32.const 1) (i32.const 208)))))
      (local.set $has_said (i32.const 1))
      (br $again))))
