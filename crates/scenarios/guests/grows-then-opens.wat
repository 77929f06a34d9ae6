;; Takes all memory that there is, page by page, and then opens files, lists a directory and writes without end: as much of each as it
;; gets. Ends with 7, unless it is ended.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $fd_readdir (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "file0000")
  (func $open (param $number i32) (result i32)
    ;; A name of its own each: 15 to the digit.
    (i32.store (i32.const 68) (i32.add (i32.const 0x41414141) (i32.and (local.get $number) (i32.const 0x0f0f0f0f))))
    (i32.store8 (i32.const 69) (i32.add (i32.const 0x41) (i32.and (i32.shr_u (local.get $number) (i32.const 4)) (i32.const 15))))
    (i32.store8 (i32.const 70) (i32.add (i32.const 0x41) (i32.and (i32.shr_u (local.get $number) (i32.const 8)) (i32.const 15))))
    ;; Creates it if it is not there; to be read and written.
    (call $path_open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 8) (i32.const 1)
      (i64.const 66) (i64.const 0) (i32.const 0) (i32.const 128)))
  (func (export "_start") (local $page i32) (local $number i32) (local $file i32)
    (loop $next
      (if (i32.ne (local.tee $page (memory.grow (i32.const 1))) (i32.const -1))
        (then
          (memory.fill (i32.shl (local.get $page) (i32.const 16)) (i32.const 0xa5) (i32.const 0x10000))
          (br $next))))
    (i32.store (i32.const 0) (i32.const 0))
    (i32.store (i32.const 4) (i32.const 0x10000))
    (loop $again
      (if (i32.eqz (call $open (local.get $number)))
        (then
          (local.set $file (i32.load (i32.const 128)))
          (drop (call $fd_write (local.get $file) (i32.const 0) (i32.const 1) (i32.const 8)))))
      (if (i32.eqz (i32.and (local.get $number) (i32.const 127)))
        (then (drop (call $fd_readdir (i32.const 3) (i32.const 1024) (i32.const 32768) (i64.const 0) (i32.const 8)))))
      (local.set $number (i32.add (local.get $number) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $number) (i32.const 1200))))
    (i32.store (i32.const 4) (i32.const 16))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $exit (i32.const 7))))
