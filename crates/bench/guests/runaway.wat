;; Touches a mebibyte, and loops for ever.
(module
  (memory (export "memory") 16)
  (func (export "_start")
    (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x100000))
    (loop $again (br $again))))
