// SPDX-License-Identifier: Apache-2.0
/**
 * One boot whose server is killed again and again while the guest works with its disks and network cards. Not part of
 * `npm run bench`: 1,000 kills take a quarter of an hour.
 *
 *     node test/bench/kills.ts [--kills 1000] [--storms 40] [--seed 1]
 *
 * The guest repeats its workload until the last kill, each round with other bytes. Servers are killed with SIGKILL at any moment,
 * also before they have answered anything. In between are storms of SIGSTOP and SIGCONT to the server, to QEMU and to both; servers
 * are killed while they, or QEMU, stand still; and one that stands still for longer than QEMU waits goes on serving.
 *
 * Nothing is lost when: each byte that was read, written and fetched is right; each command was carried out by the hardware before
 * the guest's write of CMDQ_PROD was over, as QEMU's own trace says; each server could take over from the checkpoint; the driver
 * complained of nothing; at rest there is nothing for a new server to repair; all devices were isolated at the end; QEMU has no
 * more descriptors open than after the first round. Exit code 1: it was not so.
 */
import { execFileSync } from 'node:child_process'
import { closeSync, constants, createReadStream, openSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { type GuestEvent, parseGuestEvent } from '../../server/machine/guestEvents.ts'
import { untranslatedMasters } from '../../server/machine/masters.ts'
import { privateFolder } from '../../server/machine/scratch.ts'
import { machineFiles } from '../../server/run/files.ts'
import { DEFAULTS } from '../../server/run/options.ts'
import { RunningMachine } from '../../server/run/runningMachine.ts'
import { ARM_SMMU_CMDQ_BASE, ARM_SMMU_CMDQ_PROD } from '../../server/smmu/registers.ts'
import { Servers } from '../restart/servers.ts'

const RAM_FOLDER = '/dev/shm'
/** QEMU gives a server up that says nothing for so long, and looks for another. */
const REPLY_MS = 4_000
/** A machine that is not served for so long has lost its servers. */
const RECONNECT_MS = 120_000
/** Longest pause before a kill; short ones are more frequent. */
const KILL_MS = 80
/** Stops and goes of a storm, and the longest of each. */
const STORM_SIGNALS = 24
const STORM_MS = 120
/** Every so many storms, the server stands still for longer than QEMU waits. */
const LONG_STORM = 8
/** Descriptors of QEMU's user network that may linger. */
const NETWORK_FILES = 8
/** A server that stood still finds a machine that has given it up. */
const GIVEN_UP = /EPIPE|ECONNRESET|QEMU closed the connection|did not say hello/
/** The guest is at rest so long after its work. */
const REST_MS = 1_000
/** Of the disks and of the file, bytes: small, so that each device gets its turn many times. */
const SIZE = { disk: 1 << 20, file: 512 << 10 }
/** What the driver, or the kernel, says when something got lost. */
const COMPLAINT =
  /CMD_SYNC timeout|arm-smmu-v3[^:]*: .*(?:event|error|fail|timeout|unexpected|GERROR)|I\/O error|timed? ?out|Oops|BUG:|WARNING:|Call trace|blocked for more than/i

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '1000' },
    storms: { type: 'string', default: '40' },
    seed: { type: 'string', default: '1' },
  },
})
const whole = (name: 'kills' | 'storms' | 'seed', least: number): number => {
  const value = Number(values[name])
  if (!Number.isInteger(value) || value < least || value > 100_000)
    throw new Error(`--${name}: from ${least} to 100000`)
  return value
}
const wanted = { kills: whole('kills', 1), storms: whole('storms', 0) }

/** xorshift32: the moments of signals are the machine's affair, their order need not be. */
let state = whole('seed', 1)
function random(): number {
  state ^= state << 13
  state ^= state >>> 17
  state ^= state << 5
  return (state >>> 0) / 2 ** 32
}

/** What was wrong, in words. */
const wrong = new Set<string>()

/** Commands of the guest and of the hardware, as QEMU's trace has them. */
class Commands {
  told = 0
  carriedOut = 0
  writes = 0
  /** Writes of CMDQ_PROD that were over before the hardware had done what they told. */
  short = 0
  #entries = 0
  #prod = 0
  #done = 0

  line(line: string): void {
    if (line.includes('smmuv3_cmdq_opcode')) {
      this.#done++
      this.carriedOut++
      return
    }
    const [, offset = '', value = ''] =
      /smmu_cosim_trap_write .* offset=0x([0-9a-f]+) .* value=0x([0-9a-f]+) /.exec(line) ?? []
    const register = Number.parseInt(offset, 16)
    if (register === ARM_SMMU_CMDQ_BASE) {
      // LOG2SIZE; an index has a bit more, for the wrap.
      this.#entries = 2 ** (Number(BigInt(`0x${value}`) & 0x1fn) + 1)
      this.#prod = 0
    }
    if (register !== ARM_SMMU_CMDQ_PROD) return
    const prod = Number.parseInt(value, 16)
    const told = this.#entries > 0 ? (prod - this.#prod + this.#entries) % this.#entries : 0
    this.#prod = prod
    this.told += told
    this.writes++
    if (this.#done < told) this.short++
    this.#done = 0
  }
}

/** From a kill to the first answer of the successor, ms. */
const outages: number[] = []
const quantile = (q: number): number =>
  [...outages].sort((a, b) => a - b)[Math.min(outages.length - 1, Math.floor(outages.length * q))] ?? 0

interface Done {
  rounds: number
  bytes: number
  storms: number
  signals: number
  killedStopped: number
}

async function run(): Promise<void> {
  const files = await machineFiles(
    { kernel: DEFAULTS.kernel, attack: false },
    { signal: AbortSignal.timeout(3_600_000) },
  )
  const folder = privateFolder(tmpdir(), 'kills-')
  const socket = join(folder, 'trap')
  const pipe = join(folder, 'trace')
  execFileSync('mkfifo', [pipe])
  // Read and write: opening waits for nobody.
  const trace = openSync(pipe, constants.O_RDWR)
  const commands = new Commands()
  const servers = new Servers({ socket, ramFolder: RAM_FOLDER })
  await servers.start()
  const { memory, carveout, smp } = DEFAULTS
  const machine = await RunningMachine.start(
    {
      memory,
      carveout,
      smp,
      ramDir: RAM_FOLDER,
      workload: { seed: `kills${values.seed}`, size: SIZE },
      commandLine: () => 'console=ttyAMA0 panic=-1 cosim.run=agent',
      qemuArgs: ['-no-reboot', '-D', pipe, '-trace', 'smmuv3_cmdq_opcode', '-trace', 'smmu_cosim_trap_write'],
      policy: {
        name: DEFAULTS.policy,
        options: {},
        panicOnWarn: false,
        server: socket,
        reconnectMs: RECONNECT_MS,
        properties: [`reply-timeout-ms=${REPLY_MS}`],
      },
    },
    files,
  )
  const { session, workload } = machine
  const lines = createInterface(createReadStream('', { fd: trace, autoClose: false }))
  lines.on('line', line => commands.line(line))
  const pid = session.qemu.child.pid ?? 0
  const done: Done = { rounds: 0, bytes: 0, storms: 0, signals: 0, killedStopped: 0 }
  let over = false
  const ended = session.ended.then(end => {
    over = true
    if (end.qemu.code !== 0) wrong.add(`QEMU ended with ${end.qemu.signal ?? end.qemu.code}: ${end.qemuErrors}`)
  })

  let events: GuestEvent[] = []
  let killing = true
  const openFiles = () => readdirSync(`/proc/${pid}/fd`).length
  let opened = 0
  const atRest = Promise.withResolvers<void>()
  const tell = () => {
    events = []
    session.qemu.child.stdin?.write(`workload ${workload.append(0)}\n`)
  }
  session.console.on('line', line => {
    if (COMPLAINT.test(line) && wrong.size < 20) wrong.add(`the guest says: ${line.trim()}`)
    const event = parseGuestEvent(line)
    if (event === undefined) return
    events.push(event)
    if (!event.ok) wrong.add(`guest step "${event.event}": ${event.error}`)
    if (event.event === 'ready') tell()
    if (event.event !== 'worked') return
    const entries = workload.check(events)
    for (const { device, operation, ok, error } of entries) if (!ok) wrong.add(`${device} ${operation}: ${error}`)
    if (done.rounds++ === 0) opened = openFiles()
    done.bytes += entries.reduce((sum, { bytes }) => sum + bytes, 0)
    workload.again()
    if (killing) tell()
    else atRest.resolve()
  })
  void ended.then(() => atRest.resolve())

  const pause = () => sleep(random() ** 2 * KILL_MS)
  const kill = async () => {
    const at = Date.now()
    await servers.replace()
    void servers.answered().then(answered => answered && outages.push(Date.now() - at))
  }
  /** Stops and lets go, in any order; whoever was stopped runs afterwards. */
  const storm = async () => {
    done.storms++
    const stopped = { server: false, qemu: false }
    const signal = (who: keyof typeof stopped) => {
      const name = stopped[who] ? 'SIGCONT' : 'SIGSTOP'
      stopped[who] = !stopped[who]
      done.signals++
      if (who === 'server') servers.signal(name)
      else if (!over) process.kill(pid, name)
    }
    for (let i = 0; i < STORM_SIGNALS && !over; i++) {
      signal(random() < 0.5 ? 'server' : 'qemu')
      await sleep(random() ** 2 * STORM_MS)
      if (random() < 0.1 && servers.kills < wanted.kills) {
        if (stopped.server || stopped.qemu) done.killedStopped++
        stopped.server = false
        await kill()
      }
    }
    if (stopped.qemu) signal('qemu')
    if (stopped.server) signal('server')
    if (done.storms % LONG_STORM !== 0 || over) return
    signal('server')
    await sleep(REPLY_MS * 1.5)
    signal('server')
    await sleep(REPLY_MS / 4)
  }

  const started = performance.now()
  await Promise.race([servers.answered(), ended])
  const every = wanted.storms > 0 ? wanted.kills / wanted.storms : Number.POSITIVE_INFINITY
  while (!over && servers.kills < wanted.kills) {
    // Some die before they have answered, or before they know the machine.
    if (random() < 0.7) await Promise.race([servers.answered(), ended])
    await pause()
    if (over) break
    await kill()
    if (servers.kills % 50 === 0) {
      const seconds = ((performance.now() - started) / 1000).toFixed(0)
      console.log(`${servers.kills} kills, ${done.storms} storms, ${done.rounds} rounds, ${seconds} s`)
    }
    if (servers.kills >= (done.storms + 1) * every) await storm()
  }
  killing = false
  await atRest.promise
  await sleep(REST_MS)
  const quiet = servers.events.length
  if (!over) {
    const after = openFiles()
    if (after > opened + NETWORK_FILES) wrong.add(`QEMU has ${after} descriptors open, ${opened} after the first round`)
    // Nothing is under way: there must be nothing to repair.
    await servers.replace()
    await Promise.race([servers.connected(), ended])
    const masters = await untranslatedMasters(await session.qmp(AbortSignal.timeout(30_000)))
    for (const { name, why } of masters) wrong.add(`not behind the SMMU: ${name}, ${why}`)
    session.qemu.child.stdin?.write('end\n')
  }
  await ended
  const ms = performance.now() - started
  await machine.close()
  await sleep(200)
  lines.close()
  closeSync(trace)
  rmSync(folder, { recursive: true })

  const connected = servers.events.flatMap(({ event, args }) => (event === 'connected' ? [args] : []))
  const repairs = new Map<string, number>()
  for (const [, , list] of connected) for (const text of list) repairs.set(text, (repairs.get(text) ?? 0) + 1)
  for (const { event, args } of servers.events.slice(quiet))
    if (event === 'connected' && args[2].length > 0)
      wrong.add(`at rest there was something to repair: ${args[2].join('; ')}`)
  const afresh = connected.filter(([, resumed]) => !resumed).length
  if (afresh > 1) wrong.add(`${afresh} servers began the machine anew`)
  for (const text of servers.complaints) if (!GIVEN_UP.test(text)) wrong.add(text)
  await servers.stop()
  const sections = servers.sections
  if (sections?.isolated !== true) wrong.add('the last server does not say that the devices are isolated')
  if (servers.kills < wanted.kills) wrong.add(`the machine ended after ${servers.kills} kills`)
  if (commands.short > 0)
    wrong.add(`${commands.short} writes of CMDQ_PROD were over before all commands were carried out`)
  if (commands.writes === 0 || commands.carriedOut < commands.told)
    wrong.add('the hardware did not carry out all commands')

  const mib = (done.bytes / 2 ** 20).toFixed(0)
  console.log(
    `kills: ${servers.kills} in one boot of ${(ms / 1000).toFixed(0)} s; ${connected.length} servers had the machine`,
  )
  console.log(
    `storms: ${done.storms}, ${done.signals} signals; ${done.killedStopped} servers were killed while they, or QEMU, stood still`,
  )
  console.log(`I/O: ${done.rounds} rounds, ${mib} MiB checked`)
  console.log(
    `commands: ${commands.told} of the guest in ${commands.writes} writes, ${commands.carriedOut} carried out, ${commands.short} writes too early`,
  )
  console.log(
    `from a kill to the first answer after it: p50 ${quantile(0.5)} ms, p99 ${quantile(0.99)} ms, longest ${quantile(1)} ms (${outages.length})`,
  )
  const put = [...repairs].map(([text, n]) => `${n} × ${text}`).join('; ')
  console.log(`put right when a server took over: ${put || 'nothing'}`)
  console.log(`isolated at the end: ${sections?.isolated === true}`)
}

console.log(
  `load before: ${loadavg()[0]?.toFixed(2)}, CPUs ${readFileSync('/proc/cpuinfo', 'latin1').match(/^processor/gm)?.length}`,
)
await run()
for (const text of wrong) console.log(`WRONG  ${text}`)
process.exitCode = wrong.size > 0 ? 1 : 0
