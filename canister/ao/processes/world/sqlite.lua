-- `lsqlite3`, over databases in memory that the host keeps beside this state. A statement's rows are read when it begins.
local native = __native
local sqlite = {
  OK = 0, ERROR = 1, BUSY = 5, NOMEM = 7, CONSTRAINT = 19, MISMATCH = 20, MISUSE = 21, RANGE = 25, ROW = 100, DONE = 101,
}
local Database, Statement = {}, {}
Database.__index, Statement.__index = Database, Statement

local function failed(db, reply)
  db.code, db.message = reply.code, reply.message
  return reply.code
end
local function succeeded(db, reply)
  db.code, db.message = 0, "not an error"
  db.n_changes, db.rowid, db.n_total = reply.changes, reply.rowid, reply.total
  return reply
end
local function open(db)
  if not db.handle then error("attempt to use closed sqlite database", 3) end
  return db.handle
end
local function ask(db, op, ...)
  local reply = native.sqlite(op, open(db), ...)
  if reply.code ~= 0 then return nil, failed(db, reply) end
  return succeeded(db, reply)
end

function sqlite.open_memory()
  local reply = native.sqlite("open", 0)
  if reply.code ~= 0 then return nil, reply.code, reply.message end
  return setmetatable({ handle = reply.handle, code = 0, message = "not an error" }, Database)
end
function sqlite.open(name)
  if name ~= nil and name ~= "" and name ~= ":memory:" then return nil, 14, "only databases in memory are available" end
  return sqlite.open_memory()
end
function sqlite.complete(text) return native.sqlite_complete(text) end
function sqlite.version() return native.sqlite_version() end
sqlite.lversion = sqlite.version

function Database:isopen() return self.handle ~= nil end
function Database:close()
  if self.handle then native.sqlite("close", self.handle) end
  self.handle = nil
  return sqlite.OK
end
Database.close_vm = function() return sqlite.OK end
function Database:errcode() return self.code end
function Database:errmsg() return self.message end
Database.error_code, Database.error_message = Database.errcode, Database.errmsg
function Database:changes() return self.n_changes or 0 end
function Database:total_changes() return self.n_total or 0 end
function Database:last_insert_rowid() return self.rowid or 0 end
function Database:busy_timeout() return sqlite.OK end
function Database:exec(text, f, data)
  local reply, code = ask(self, "exec", text, f ~= nil)
  if not reply then return code end
  for _, set in ipairs(reply.sets or {}) do
    for i = 1, set.n_rows do
      local row, shown = set.rows[i], {}
      for c = 1, set.n do shown[c] = row[c] ~= nil and tostring(row[c]) or nil end
      local answer = f(data, set.n, shown, set.names)
      if answer and answer ~= 0 then return 4 end
    end
  end
  return sqlite.OK
end
Database.execute = Database.exec

function Database:prepare(text)
  local reply, code = ask(self, "check", text)
  if not reply then return nil, code end
  return setmetatable({ db = self, text = text, names = reply.names, n = reply.n, values = {}, n_values = reply.parameters,
    labels = reply.labels or {} }, Statement)
end

-- Statements ------------------------------------------------------------------------------------------------------------
local function needed(stmt)
  if stmt.finalized then error("attempt to use closed sqlite virtual machine", 3) end
end
local function start(stmt)
  if stmt.set then return sqlite.OK end
  local reply, code = ask(stmt.db, "run", stmt.text, stmt.values)
  if not reply then return code end
  stmt.set, stmt.at = reply.sets[1] or { rows = {}, n_rows = 0, names = {}, n = 0 }, 0
  return sqlite.OK
end
function Statement:isopen() return not self.finalized end
function Statement:bind(i, value) needed(self) self.values[i] = value return sqlite.OK end
Statement.bind_blob = Statement.bind
function Statement:bind_values(...)
  needed(self)
  self.values = {}
  for i = 1, select("#", ...) do self.values[i] = (select(i, ...)) end
  return sqlite.OK
end
function Statement:bind_names(given)
  needed(self)
  self.values = {}
  for i, label in ipairs(self.labels) do
    local value = given[label]
    if value == nil then value = given[i] end
    self.values[i] = value
  end
  return sqlite.OK
end
function Statement:bind_parameter_count() return self.n_values end
function Statement:bind_parameter_name(i) return self.labels[i] end
function Statement:step()
  needed(self)
  local code = start(self)
  if code ~= sqlite.OK then return code end
  self.at = self.at + 1
  if self.at <= self.set.n_rows then return sqlite.ROW end
  return sqlite.DONE
end
function Statement:reset() needed(self) self.set, self.at = nil, nil return sqlite.OK end
function Statement:finalize() self.finalized, self.set = true, nil return sqlite.OK end
function Statement:columns() return self.n end
function Statement:get_names() return self.names end
function Statement:get_name(i) return self.names[i + 1] end
local function row_of(stmt) return stmt.set and stmt.set.rows[stmt.at] or {} end
function Statement:get_value(i) return row_of(self)[i + 1] end
function Statement:get_values()
  local row, values = row_of(self), {}
  for c = 1, self.n do values[c] = row[c] end
  return values
end
function Statement:get_uvalues() return table.unpack(row_of(self), 1, self.n) end
function Statement:get_named_values()
  local row, found = row_of(self), {}
  for c, name in ipairs(self.names) do found[name] = row[c] end
  return found
end
Statement.data, Statement.idata = Statement.get_named_values, Statement.get_values
function Statement:last_insert_rowid() return self.db:last_insert_rowid() end
local function iterated(get)
  return function(stmt)
    needed(stmt)
    stmt:reset()
    return function()
      local code = stmt:step()
      if code == sqlite.ROW then return get(stmt) end
      if code ~= sqlite.DONE then error(stmt.db.message, 2) end
      stmt:reset()
      return nil
    end
  end
end
Statement.nrows = iterated(Statement.get_named_values)
Statement.rows = iterated(Statement.get_values)
Statement.urows = iterated(Statement.get_uvalues)
for _, name in ipairs{ "nrows", "rows", "urows" } do
  Database[name] = function(db, text)
    local stmt = db:prepare(text)
    if not stmt then error(db.message, 2) end
    return stmt[name](stmt)
  end
end
package.loaded.lsqlite3, package.loaded.sqlite3 = sqlite, sqlite

-- `DbAdmin`: the three things that programs do with a database ------------------------------------------------------------
local function db_admin()
  local Admin = {}
  Admin.__index = Admin
  function Admin.new(db) return setmetatable({ db = db }, Admin) end
  local function prepared(self, text, values)
    local stmt = self.db:prepare(text)
    if not stmt then error("Failed to prepare SQL statement: " .. self.db:errmsg(), 3) end
    if values then
      if #values > 0 or next(values) == nil then stmt:bind_values(table.unpack(values)) else stmt:bind_names(values) end
    end
    return stmt
  end
  function Admin:exec(text, values)
    if values then return self:apply(text, values) end
    if self.db:exec(text) == sqlite.OK and text:match("^%s*[sS][eE][lL][eE][cC][tT]") then return self:select(text) end
    if self.db:errcode() ~= sqlite.OK then error("SQL execution failed: " .. self.db:errmsg(), 2) end
    return {}
  end
  function Admin:select(text, values)
    local found = {}
    for row in prepared(self, text, values):nrows() do found[#found + 1] = row end
    return found
  end
  function Admin:apply(text, values)
    local stmt = prepared(self, text, values)
    local code = stmt:step()
    if code ~= sqlite.DONE and code ~= sqlite.ROW then error("SQL execution failed: " .. self.db:errmsg(), 2) end
    stmt:finalize()
    return self.db:changes()
  end
  function Admin:tables()
    local found = {}
    for row in self.db:nrows("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name") do found[#found + 1] = row.name end
    return found
  end
  function Admin:count(name)
    return self:select('SELECT count(*) AS n FROM "' .. name:gsub('"', '""') .. '"')[1].n
  end
  return Admin
end
for _, name in ipairs{ "DbAdmin", "@rakis/DbAdmin", "dbAdmin" } do
  package.preload[name] = function()
    local made = package.loaded["@rakis/DbAdmin"] or db_admin()
    package.loaded["@rakis/DbAdmin"] = made
    return made
  end
end
