;; Opens a file of the first granted directory again and again until it gets no more; then writes how many it has open and why
;; there were no more (an errno), each as four little-endian bytes, and ends with an exit status of 7.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "file")
  (func $open (export "open") (result i32)
    ;; Creates it if it is not there; to be read.
    (call $path_open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 4) (i32.const 1)
      (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 128)))
  (func (export "_start") (local $count i32) (local $errno i32)
    (block $no_more
      (loop $next
        (br_if $no_more (local.tee $errno (call $open)))
        (local.set $count (i32.add (local.get $count) (i32.const 1)))
        (br $next)))
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 8))
    (i32.store (i32.const 16) (local.get $count))
    (i32.store (i32.const 20) (local.get $errno))
    (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then (unreachable)))
    (call $exit (i32.const 7))))
