module prestop/test

go 1.26.0

require prestop v0.0.0

replace prestop => ../
