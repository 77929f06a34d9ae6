;; Nothing but a loop: no import, no memory, no call, no trap of its own.
(module
  (func (export "_start")
    (loop $for_ever (br $for_ever))))
