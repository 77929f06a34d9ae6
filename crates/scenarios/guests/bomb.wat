;; Uses its memory, and starts itself, which may do the same, again and again, and never waits for any.
(module
  (import "selkis_process" "spawn" (func $spawn (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "bomb\00")
  ;; The record: the program, and what that may start.
  (data (i32.const 64) "\00\00\00\00" "\04\00\00\00")
  (data (i32.const 96) "\00\00\00\00" "\05\00\00\00")
  (func (export "_start")
    (memory.fill (i32.const 1024) (i32.const 7) (i32.const 64000))
    (loop $again
      (drop (call $spawn (i32.const 64) (i32.const 208)))
      (br $again))))
