;; files LETTER PATH: works on PATH, relative to the first granted directory. Its status is the errno, or 0.
;;   r  copies the file to standard output        w  creates the file, or empties it, and writes "written\n"
;;   d  removes the file                          m  makes a directory
(module
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $path_unlink_file (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory"
    (func $path_create_directory (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 512) "written\n")
  (global $path (mut i32) (i32.const 0))
  (global $length (mut i32) (i32.const 0))

  (func $check (param $errno i32)
    (if (local.get $errno) (then (call $proc_exit (local.get $errno)))))

  (func $is (param $letter i32) (result i32)
    (i32.eq (i32.load8_u (i32.load (i32.const 4))) (local.get $letter)))

  ;; Opens the path, following links, with these open flags and rights; the descriptor.
  (func $open (param $flags i32) (param $rights i64) (result i32)
    (call $check
      (call $path_open
        (i32.const 3) (i32.const 1) (global.get $path) (global.get $length)
        (local.get $flags) (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 256)))
    (i32.load (i32.const 256)))

  (func $copy (param $file i32) (local $read i32)
    (loop $next
      (i32.store (i32.const 260) (i32.const 0x10000))
      (i32.store (i32.const 264) (i32.const 0x10000))
      (call $check (call $fd_read (local.get $file) (i32.const 260) (i32.const 1) (i32.const 268)))
      (if (local.tee $read (i32.load (i32.const 268)))
        (then
          (i32.store (i32.const 264) (local.get $read))
          (call $check (call $fd_write (i32.const 1) (i32.const 260) (i32.const 1) (i32.const 268)))
          (br $next)))))

  (func $write (param $file i32)
    (i32.store (i32.const 260) (i32.const 512))
    (i32.store (i32.const 264) (i32.const 8))
    (call $check (call $fd_write (local.get $file) (i32.const 260) (i32.const 1) (i32.const 268))))

  (func (export "_start") (local $end i32)
    (call $check (call $args_get (i32.const 0) (i32.const 1024)))
    (global.set $path (i32.load (i32.const 8)))
    (local.set $end (global.get $path))
    (loop $next
      (if (i32.load8_u (local.get $end))
        (then
          (local.set $end (i32.add (local.get $end) (i32.const 1)))
          (br $next))))
    (global.set $length (i32.sub (local.get $end) (global.get $path)))
    ;; Rights: fd_read is bit 1, fd_write bit 6. Open flags: create is bit 0, truncate bit 3.
    (if (call $is (i32.const 114)) (then (call $copy (call $open (i32.const 0) (i64.const 2)))))
    (if (call $is (i32.const 119)) (then (call $write (call $open (i32.const 9) (i64.const 64)))))
    (if (call $is (i32.const 100))
      (then (call $check (call $path_unlink_file (i32.const 3) (global.get $path) (global.get $length)))))
    (if (call $is (i32.const 109))
      (then (call $check (call $path_create_directory (i32.const 3) (global.get $path) (global.get $length)))))))
