;; Takes all that it can of what it may have: memory, stack, and in its first directory a file of 16 MiB, or as much as there is room for. Says so,
;; and sleeps for ever.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "file")
  (data (i32.const 24) "full\n")
  ;; Buffers: a piece of the file, the line.
  (data (i32.const 32) "\00\00\00\00" "\00\00\01\00")
  (data (i32.const 48) "\18\00\00\00" "\05\00\00\00")

  (func $deep (param $depth i32) (result i32)
    (if (result i32) (local.get $depth)
      (then (i32.add (call $deep (i32.sub (local.get $depth) (i32.const 1))) (i32.const 1)))
      (else (i32.const 0))))

  (func (export "_start") (local $page i32) (local $pieces i32)
    (loop $next
      (if (i32.ne (local.tee $page (memory.grow (i32.const 1))) (i32.const -1))
        (then
          (memory.fill (i32.shl (local.get $page) (i32.const 16)) (i32.const 0xa5) (i32.const 0x10000))
          (br $next))))
    (drop (call $deep (i32.const 8000)))
    ;; Rights: fd_write is bit 6. Open flags: create is bit 0.
    (if (i32.eqz (call $path_open
          (i32.const 3) (i32.const 1) (i32.const 16) (i32.const 4)
          (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 256)))
      (then
        (loop $more
          (if (i32.lt_u (local.get $pieces) (i32.const 256))
            (then
              (local.set $pieces (i32.add (local.get $pieces) (i32.const 1)))
              (br_if $more (i32.eqz
                (call $fd_write (i32.load (i32.const 256)) (i32.const 32) (i32.const 1) (i32.const 208)))))))))
    (drop (call $fd_write (i32.const 1) (i32.const 48) (i32.const 1) (i32.const 208)))
    (i32.store (i32.const 320) (i32.const 0))
    (i32.store (i32.const 336) (i32.const 1))
    (i64.store (i32.const 344) (i64.const 0x7fffffffffffffff))
    (drop (call $poll_oneoff (i32.const 320) (i32.const 384) (i32.const 1) (i32.const 448)))
    (unreachable)))
