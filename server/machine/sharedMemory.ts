// SPDX-License-Identifier: Apache-2.0
/**
 * Memory that two processes share and neither can take away from the other: files in memory that are sealed (memfd_create(2)),
 * their mappings, and their way through a Unix socket; and how a thread looks at such memory without keeping a processor from others. Node
 * has no functions for these; they are the C library's, through `node:ffi`, and there is nothing else of it here. None of it is called
 * while a trap is decided.
 */
import { ftruncateSync } from 'node:fs'
import { arch, endianness, getPriority, platform } from 'node:os'
import { getSystemErrorMap } from 'node:util'

/** memfd_create(2), fcntl(2), mmap(2), socket(7): values of Linux on every 64-bit machine. */
const MFD_CLOEXEC = 1
const MFD_ALLOW_SEALING = 2
const F_ADD_SEALS = 1033
const F_SEAL_SHRINK = 2
const F_SEAL_GROW = 4
const PROT_READ_WRITE = 3
const MAP_SHARED = 1
const MAP_FAILED = 2n ** 64n - 1n
const SEEK_DATA = 3
const SEEK_HOLE = 4
const SOL_SOCKET = 1
const SCM_RIGHTS = 1
const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000
/** sched_setattr(2), which older C libraries lack: its number, the size of struct sched_attr, flags, and ns. */
const SCHED_SETATTR = arch() === 'arm64' ? 274n : 314n
const SCHED_ATTR_BYTES = 48
const SCHED_FLAG_KEEP_POLICY = 0x08n
const SHORTEST_SLICE = 100_000n

/** A call of the C library failed. */
export class SharedMemoryError extends Error {
  /** E.g. `EMFILE`. */
  readonly code: string

  constructor(call: string, errno: number) {
    const [code, text] = getSystemErrorMap().get(-errno) ?? [`error ${errno}`, 'unknown']
    super(`${call}: ${code}, ${text}`)
    this.name = 'SharedMemoryError'
    this.code = code
  }
}

/** Where a file is mapped in this process, as long as nobody unmaps it. Threads may tell each other. */
export interface Mapping {
  readonly address: bigint
  /** Bytes. */
  readonly size: number
}

/** A file in memory that cannot change its size, open and mapped. */
export interface SharedFile extends Mapping {
  readonly fd: number
}

/**
 * Where the functions find what is no number: bytes in and out, errno, and of sendmsg(2) struct msghdr, struct iovec and struct cmsghdr.
 * It stays where it is, so its address need not be asked for again.
 */
const SCRATCH = { bytes: 0, room: 128, errno: 128, header: 136, vector: 192, control: 208, size: 256 } as const

type Libc = ReturnType<typeof load>
let libc: Libc | undefined
let fault: string | undefined

/** @throws Error why there is no shared memory here */
function load() {
  if (platform() !== 'linux' || endianness() !== 'LE' || !['x64', 'arm64'].includes(arch()))
    throw new Error(`shared memory is for Linux on x64 and arm64, this is ${platform()} on ${arch()}`)
  const ffi = quietly(() => process.getBuiltinModule('node:ffi'))
  if (ffi === undefined) throw new Error(`Node ${process.version} has no node:ffi`)
  const { functions } = ffi.dlopen(null, {
    memfd_create: { arguments: ['u64', 'u32'], return: 'i32' },
    fcntl: { arguments: ['i32', 'i32', 'i32'], return: 'i32' },
    mmap: { arguments: ['u64', 'u64', 'i32', 'i32', 'i32', 'i64'], return: 'u64' },
    munmap: { arguments: ['u64', 'u64'], return: 'i32' },
    lseek: { arguments: ['i32', 'i64', 'i32'], return: 'i64' },
    close: { arguments: ['i32'], return: 'i32' },
    sendmsg: { arguments: ['i32', 'u64', 'i32'], return: 'i64' },
    sched_yield: { arguments: [], return: 'i32' },
    syscall: { arguments: ['i64', 'i64', 'u64', 'i64'], return: 'i64' },
    __errno_location: { arguments: [], return: 'u64' },
    memcpy: { arguments: ['u64', 'u64', 'u64'], return: 'u64' },
  })
  const scratch = new ArrayBuffer(SCRATCH.size)
  // The one that is called often, and so would be compiled into its callers: Node frees what the compiler reads of such a function when its
  // thread ends, while the compiler may be at it on another thread, and then the process ends with a failed check of V8's. What
  // Reflect.get calls it does not look at: the call takes as long with --no-turbo-fast-api-calls. It does look behind a proxy.
  const often = Object.defineProperty({}, 'sched_yield', { get: functions.sched_yield })
  return { ffi, ...functions, often, scratch: Buffer.from(scratch), at: ffi.getRawPointer(scratch) }
}

/** Without the warning that `node:ffi` is experimental: it is pinned with Node, and what is used of it is tested. */
function quietly<T>(work: () => T): T {
  const { emitWarning } = process
  process.emitWarning = ((warning: string | Error, ...rest: [string]) => {
    if (rest[0] !== 'ExperimentalWarning' || !String(warning).startsWith('FFI ')) emitWarning(warning, ...rest)
  }) as typeof emitWarning
  try {
    return work()
  } finally {
    process.emitWarning = emitWarning
  }
}

/** Why this thread has no shared memory; undefined: it has. */
export function sharedMemoryFault(): string | undefined {
  if (libc !== undefined || fault !== undefined) return fault
  try {
    libc = load()
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    fault = code === 'ERR_ACCESS_DENIED' ? 'Node was not started with --allow-ffi' : message
  }
  return fault
}

/**
 * Under Node's permission model, this thread gives up `node:ffi`. What is loaded already goes on: files can be made, mapped and
 * unmapped, but neither can memory be looked at by its address (`view`), nor other functions be called.
 */
export function giveUpFfi(): void {
  sharedMemoryFault()
  process.permission?.drop('ffi')
}

/** @throws Error where there is no shared memory */
function loaded(): Libc {
  const reason = sharedMemoryFault()
  if (libc === undefined) throw new Error(reason)
  return libc
}

function failed(call: string): SharedMemoryError {
  const { memcpy, __errno_location, scratch, at } = loaded()
  memcpy(at + BigInt(SCRATCH.errno), __errno_location(), 4n)
  return new SharedMemoryError(call, scratch.readInt32LE(SCRATCH.errno))
}

/**
 * A new empty file in memory, which nobody can open by name. The caller closes it.
 * @param name short, for people who look at a process's open files
 * @throws SharedMemoryError
 */
export function memoryFile(name: string): number {
  const { memfd_create: create, scratch, at } = loaded()
  scratch.write(`${name}\0`, SCRATCH.bytes, SCRATCH.room)
  const fd = create(at, MFD_CLOEXEC | MFD_ALLOW_SEALING)
  if (fd < 0) throw failed('memfd_create')
  return fd
}

/** Closes a file that was made here: Node's own function warns of descriptors that it did not open. */
export function closeFile(fd: number): void {
  if (loaded().close(fd) < 0) throw failed('close')
}

/** The file keeps its size, whoever has it: what is mapped of it stays there. @throws SharedMemoryError */
export function sealSize(fd: number): void {
  if (loaded().fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0) throw failed('F_ADD_SEALS')
}

/**
 * Maps a file, for reading and writing, from its start on. One that is not sealed may shrink, and then the process that looks at it ends.
 * @param size bytes; not 0, and not beyond the end of the file
 * @throws SharedMemoryError
 */
export function map(fd: number, size: number): Mapping {
  const address = loaded().mmap(0n, BigInt(size), PROT_READ_WRITE, MAP_SHARED, fd, 0n)
  if (address === MAP_FAILED) throw failed('mmap')
  return { address, size }
}

/**
 * The mapping as memory of this thread: no copy. It must not be used after `unmap`, which an owner makes sure of with `detach`.
 * @throws Error when this thread has given up `node:ffi`
 */
export function view({ address, size }: Mapping): ArrayBuffer {
  return loaded().ffi.toArrayBuffer(address, size, false)
}

/** From now on all that looks at this memory has no bytes. */
export function detach(memory: ArrayBuffer): void {
  memory.transfer()
}

/** Nobody may look at it any more. @throws SharedMemoryError */
export function unmap({ address, size }: Mapping): void {
  if (loaded().munmap(address, BigInt(size)) < 0) throw failed('munmap')
}

/** A new file of that many bytes, all 0. The caller closes and unmaps it. @throws SharedMemoryError, Error */
export function sharedFile(name: string, size: number): SharedFile {
  const fd = memoryFile(name)
  ftruncateSync(fd, size)
  sealSize(fd)
  return { fd, ...map(fd, size) }
}

/** Others that wait for this thread's processor run first. Nothing happens where this thread has no shared memory. */
export function letOthersRun(): void {
  if (libc !== undefined) Reflect.get(libc.often, 'sched_yield')
}

/**
 * From now on this thread has its turns on a processor soon, and short ones: woken up, it goes before threads that compute, and it loses
 * little when it lets others run. Its share stays the same. Before Linux 6.12, and where a filter forbids the call, nothing happens.
 * @throws Error where there is no shared memory
 */
export function takeShortTurns(): void {
  const { syscall, scratch, at } = loaded()
  scratch.fill(0)
  scratch.writeUInt32LE(SCHED_ATTR_BYTES, 0)
  scratch.writeBigUInt64LE(SCHED_FLAG_KEEP_POLICY, 8)
  scratch.writeInt32LE(getPriority(), 16)
  scratch.writeBigUInt64LE(SHORTEST_SLICE, 24)
  syscall(SCHED_SETATTR, 0n, at, 0n)
}

/** A part of a file, bytes. */
export interface Run {
  readonly start: number
  readonly end: number
}

/**
 * Where a file has data, ascending: everything else is zeros. Room that was only reserved in a file in memory is not data. Moves the
 * descriptor's position.
 * @throws SharedMemoryError
 */
export function dataRuns(fd: number): Run[] {
  const { lseek } = loaded()
  const runs: Run[] = []
  for (let at = 0n; ; ) {
    const start = lseek(fd, at, SEEK_DATA)
    if (start < 0n) {
      const error = failed('lseek')
      // There is none from here on.
      if (error.code === 'ENXIO') return runs
      throw error
    }
    at = lseek(fd, start, SEEK_HOLE)
    if (at < 0n) throw failed('lseek')
    runs.push({ start: Number(start), end: Number(at) })
  }
}

/**
 * Sends bytes through a Unix socket, and a descriptor with the first of them.
 * @param bytes at most 128
 * @returns how many bytes were sent, 0: there is no room now
 * @throws SharedMemoryError
 */
export function sendDescriptor(socket: number, bytes: Uint8Array, descriptor: number): number {
  const { sendmsg, scratch, at } = loaded()
  const { room, header, vector, control } = SCRATCH
  if (bytes.length > room) throw new RangeError(`${bytes.length} bytes, at most ${room} can go with a descriptor`)
  scratch.fill(0)
  scratch.set(bytes, SCRATCH.bytes)
  const word = (offset: number, value: bigint) => scratch.writeBigUInt64LE(value, offset)
  word(header + 16, at + BigInt(vector))
  word(header + 24, 1n)
  word(header + 32, at + BigInt(control))
  word(header + 40, 24n)
  word(vector, at)
  word(vector + 8, BigInt(bytes.length))
  word(control, 20n)
  scratch.writeInt32LE(SOL_SOCKET, control + 8)
  scratch.writeInt32LE(SCM_RIGHTS, control + 12)
  scratch.writeInt32LE(descriptor, control + 16)
  const sent = sendmsg(socket, at + BigInt(header), MSG_DONTWAIT | MSG_NOSIGNAL)
  if (sent >= 0n) return Number(sent)
  const error = failed('sendmsg')
  if (error.code === 'EAGAIN') return 0
  throw error
}
