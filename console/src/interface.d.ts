// The methods' arguments and answers as JSON, made from canister/api/methods.py by `python -m scripts.generate`; do not
// edit. `value` is what stands in Ok, or the whole answer of a method that has no errors.

/** Of an answer: an integer that a double cannot hold is a BigInt. */
export type Nat = number | bigint;
/** Of an argument: digits are taken too. */
export type NatGiven = number | bigint | string;

export interface StatusCodeRecord {
  status_code: number;
}

export interface MemoryStatusRecord {
  wasm_heap_bytes: Nat;
  stable_bytes: Nat;
}

export interface RunOutputRecord {
  status_code: number;
  output: string;
  conversation: string;
  error: string;
  prompt_remaining: string;
  generated_eog: boolean;
  n_prompt_tokens: Nat | null;
  n_prompt_tokens_cached: Nat | null;
  n_prompt_tokens_decoded: Nat | null;
  n_tokens_generated: Nat | null;
  n_prompt_tokens_remaining: Nat | null;
}

export interface MaxTokensRecord {
  max_tokens_update: Nat;
  max_tokens_query: Nat;
}

export interface ChatRecord {
  timestamp: string;
  chat: string;
}

export interface GetChatsRecord {
  chats: ChatRecord[];
}

export interface CostPart {
  part: string;
  instructions: Nat;
}

export interface CallLogEntry {
  id: Nat;
  caller: string;
  method: string;
  timestamp_ns: Nat;
  outcome: string;
  instructions: Nat;
  cycles: Nat;
  limit: Nat | null;
  parts: CostPart[];
  n_prompt_tokens_decoded: Nat | null;
  n_tokens_generated: Nat | null;
}

export interface EstimateRecord {
  instructions: Nat;
  cycles: Nat;
  limit: Nat | null;
  fits: boolean;
  parts: CostPart[];
  max_generate: Nat;
  n_prompt_tokens: Nat;
  n_prompt_tokens_cached: Nat;
  tokens_per_call_first: Nat;
  tokens_per_call_last: Nat;
  calls: Nat;
  total_instructions: Nat;
  total_cycles: Nat;
  xdr: number;
  usd: number;
  seconds: number;
  estimated: string[];
}

export interface ReceiptRecord {
  id: string;
  caller: string;
  method: string;
  timestamp_ns: Nat;
  outcome: string;
  instructions: Nat;
  cycles: Nat;
  n_records: Nat;
  file: string;
}

export interface FileDownloadRecord {
  chunk: string;
  chunksize: Nat;
  filesize: Nat;
  offset: Nat;
  done: boolean;
}

export interface FileUploadRecord {
  filename: string;
  filesize: Nat;
  filesha256: string;
}

export interface FileDetailsRecord {
  filename: string;
  filesize: Nat;
  filesha256: string;
}

export interface FilesystemRemoveRecord {
  exists: boolean;
  removed: boolean;
  filename: string;
  msg: string;
}

export interface FilesystemFileSizeRecord {
  exists: boolean;
  filename: string;
  filesize: Nat;
  msg: string;
}

export interface FilesystemTimestampRecord {
  exists: boolean;
  filename: string;
  timestamp_ns: Nat;
  age_seconds: Nat;
  msg: string;
}

export interface FileEntry {
  filename: string;
  filetype: string;
}

export interface CacheCleanupActionRecord {
  ok: boolean;
  is_running: boolean;
}

export interface CacheCleanupStatsRecord {
  runs: Nat;
  files_examined: Nat;
  files_deleted: Nat;
  files_failed: Nat;
  last_run_ns: Nat;
  period_seconds: Nat;
  ttl_seconds: Nat;
  max_files_per_run: Nat;
  is_running: boolean;
}

export interface CacheCleanupConfigRecord {
  period_seconds: Nat;
  ttl_seconds: Nat;
  max_files_per_run: Nat;
  is_running: boolean;
}

export interface CycleBalanceRecord {
  cycle_balance: Nat;
  updated_at_ns: Nat;
}

export interface AccessRecord {
  level: number;
  explanation: string;
}

export interface AdminRoleAssignment {
  principal: string;
  role: "AdminQuery" | "AdminUpdate";
  note: string;
  assignedBy: string;
  assignedAt: Nat;
}

export interface InputRecord {
  args: string[];
}

export interface MaxTokensRecordGiven {
  max_tokens_update: NatGiven;
  max_tokens_query: NatGiven;
}

export interface CallLogInput {
  before_id?: NatGiven | null;
  max_entries?: NatGiven | null;
}

export interface EstimateInput {
  args: string[];
  answer_tokens?: NatGiven | null;
}

export interface ReceiptInput {
  call_id: string;
  since?: NatGiven | null;
}

export interface CopyPromptCacheInputRecord {
  from: string;
  to: string;
}

export interface DownloadPromptCacheInputRecord {
  promptcache: string;
  chunksize: NatGiven;
  offset: NatGiven;
}

export interface UploadPromptCacheInputRecord {
  promptcache: string;
  chunk: string;
  chunksize: NatGiven;
  offset: NatGiven;
}

export interface PromptCacheDetailsInputRecord {
  promptcache: string;
}

export interface FileDownloadInputRecord {
  filename: string;
  chunksize: NatGiven;
  offset: NatGiven;
}

export interface FileUploadInputRecord {
  filename: string;
  chunk: string;
  chunksize: NatGiven;
  offset: NatGiven;
}

export interface FileDetailsInputRecord {
  filename: string;
}

export interface FilesystemRemoveInputRecord {
  filename: string;
}

export interface FilesystemFileSizeInputRecord {
  filename: string;
}

export interface FilesystemTimestampInputRecord {
  filename: string;
}

export interface DirContentInputRecord {
  dir: string;
  max_entries: NatGiven;
}

export interface CacheCleanupConfigInput {
  period_seconds?: NatGiven | null;
  ttl_seconds?: NatGiven | null;
  max_files_per_run?: NatGiven | null;
}

export interface AccessInputRecord {
  level: number;
}

export interface AssignAdminRoleInputRecord {
  principal: string;
  role: "AdminQuery" | "AdminUpdate";
  note: string;
}

export interface Methods {
  /** Is the canister alive. */
  health: { arg: undefined; value: StatusCodeRecord };
  /** Is a model loaded, so that inference can begin. */
  ready: { arg: undefined; value: StatusCodeRecord };
  /** The caller's principal. */
  whoami: { arg: undefined; value: string };
  /** Bytes of wasm heap that the loaded model would take on the IC, and of stable memory; whole 64 KiB pages. */
  get_memory_status: { arg: undefined; value: MemoryStatusRecord };
  /** Load the GGUF file `--model` from stable memory and make its context; it is loaded again after a restart. */
  load_model: { arg: InputRecord; value: RunOutputRecord };
  /** Limit how many tokens one call may decode, prompt and answer together; 0: no limit. */
  set_max_tokens: { arg: MaxTokensRecordGiven; value: StatusCodeRecord };
  /** The limits as they were set. */
  get_max_tokens: { arg: undefined; value: MaxTokensRecord };
  /** Make ready for a chat in the cache that `--prompt-cache` names. An existing cache stays and may be reused. */
  new_chat: { arg: InputRecord; value: RunOutputRecord };
  /** As run_update, but nothing is kept. */
  run_query: { arg: InputRecord; value: RunOutputRecord };
  /** Ingest the prompt and generate, as far as the limits of one call allow; the cache keeps what was decoded. */
  run_update: { arg: InputRecord; value: RunOutputRecord };
  /** Stop saving chats. */
  chats_pause: { arg: undefined; value: StatusCodeRecord };
  /** Save each caller's newest chats from now on. */
  chats_resume: { arg: undefined; value: StatusCodeRecord };
  /** The caller's saved chats, newest first. */
  get_chats: { arg: undefined; value: GetChatsRecord };
  /** Update calls and what each cost, newest first: the caller's own, for admins those of all. */
  get_call_log: { arg: CallLogInput; value: CallLogEntry[] };
  /** What the run_update with these args would cost now, and the whole conversation until its answer is complete. */
  estimate_run: { arg: EstimateInput; value: EstimateRecord };
  /** The receipt of a call, certified now: the caller's own with the tokens for a replay, for admins those of all. */
  get_receipt: { arg: ReceiptInput; value: ReceiptRecord };
  /** Remove the caller's prompt cache that `--prompt-cache` names. */
  remove_prompt_cache: { arg: InputRecord; value: RunOutputRecord };
  /** Copy one of the caller's prompt caches, with its sidecar, over another. */
  copy_prompt_cache: { arg: CopyPromptCacheInputRecord; value: StatusCodeRecord };
  /** Read a chunk of one of the caller's prompt caches. */
  download_prompt_cache_chunk: { arg: DownloadPromptCacheInputRecord; value: FileDownloadRecord };
  /** Write the next chunk of one of the caller's prompt caches, as file_upload_chunk does. */
  upload_prompt_cache_chunk: { arg: UploadPromptCacheInputRecord; value: FileUploadRecord };
  /** Size and SHA-256 of an uploaded prompt cache. */
  uploaded_prompt_cache_details: { arg: PromptCacheDetailsInputRecord; value: FileDetailsRecord };
  /** Read a chunk of a file. */
  file_download_chunk: { arg: FileDownloadInputRecord; value: FileDownloadRecord };
  /** Write the next chunk of a file: offset 0 starts it anew, the offset of the last chunk again is a retry. */
  file_upload_chunk: { arg: FileUploadInputRecord; value: FileUploadRecord };
  /** Size and SHA-256 of an uploaded file. */
  uploaded_file_details: { arg: FileDetailsInputRecord; value: FileDetailsRecord };
  /** Remove a file or an empty folder. */
  filesystem_remove: { arg: FilesystemRemoveInputRecord; value: FilesystemRemoveRecord };
  /** Size of a file. */
  filesystem_file_size: { arg: FilesystemFileSizeInputRecord; value: FilesystemFileSizeRecord };
  /** When a file was created, and how long ago that is. */
  get_creation_timestamp_ns: { arg: FilesystemTimestampInputRecord; value: FilesystemTimestampRecord };
  /** Everything below a folder: depth first, in order of creation, with the folder in front of each path. */
  recursive_dir_content_query: { arg: DirContentInputRecord; value: FileEntry[] };
  /** As recursive_dir_content_query, with an update's limits. */
  recursive_dir_content_update: { arg: DirContentInputRecord; value: FileEntry[] };
  /** Remove the log file that `--log-file` names. */
  remove_log_file: { arg: InputRecord; value: RunOutputRecord };
  /** Turn console logging of the model's work off. */
  log_pause: { arg: undefined; value: StatusCodeRecord };
  /** Turn console logging of the model's work on. */
  log_resume: { arg: undefined; value: StatusCodeRecord };
  /** Delete old prompt caches every `period_seconds` from now on. */
  cache_cleanup_start_timer: { arg: undefined; value: CacheCleanupActionRecord };
  /** Stop deleting old prompt caches. */
  cache_cleanup_stop_timer: { arg: undefined; value: CacheCleanupActionRecord };
  /** Delete prompt caches that were not written for `ttl_seconds`, at once; timer or not. */
  cache_cleanup_now: { arg: undefined; value: CacheCleanupStatsRecord };
  /** Runs so far and the time of the last one; the files of the last run; the configuration. */
  get_cache_cleanup_stats: { arg: undefined; value: CacheCleanupStatsRecord };
  /** Change what is given: period (0 is ignored), time to live (0: everything is old), files per run (1 to 10000). */
  set_cache_cleanup_config: { arg: CacheCleanupConfigInput; value: CacheCleanupConfigRecord };
  /** Read the cycle balance now and every hour from now on. */
  cycle_balance_start_timer: { arg: undefined; value: StatusCodeRecord };
  /** Stop reading the cycle balance. */
  cycle_balance_stop_timer: { arg: undefined; value: StatusCodeRecord };
  /** The last reading of the cycle balance. */
  get_cycle_balance: { arg: undefined; value: CycleBalanceRecord };
  /** Open the inference methods to all named callers (level 1), or keep them for controllers and admins (0). */
  set_access: { arg: AccessInputRecord; value: AccessRecord };
  /** The access level, and what it means. */
  get_access: { arg: undefined; value: AccessRecord };
  /** Ok if the caller may use the inference queries. */
  check_access: { arg: undefined; value: StatusCodeRecord };
  /** Give a principal an admin role; assigning again replaces role and note. */
  assignAdminRole: { arg: AssignAdminRoleInputRecord; value: AdminRoleAssignment };
  /** Take a principal's admin role away. */
  revokeAdminRole: { arg: string; value: string };
  /** All admin roles, in the order in which they were first assigned. */
  getAdminRoles: { arg: undefined; value: AdminRoleAssignment[] };
}
