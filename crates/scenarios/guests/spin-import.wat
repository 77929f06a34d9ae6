;; An endless loop over an import that does next to nothing: no random bytes.
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $for_ever
      (drop (call $random_get (i32.const 0) (i32.const 0)))
      (br $for_ever))))
