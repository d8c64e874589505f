// SPDX-License-Identifier: Apache-2.0
/**
 * A machine in process: a policy between a host that performs steps and SMMUs in software, with an oracle beside it. The same steps
 * with the same seed give the same result.
 */
import type { Machine } from '../machine/ports.ts'
import { PageGuard } from '../oracle/pageGuard.ts'
import { HOST, PAGE_SIZE, PageMap } from '../oracle/pageMap.ts'
import { newTrap, type Policy, type PolicyContext, type PolicyFactory } from '../policy/policy.ts'
import { PAGE_DONATE, PAGE_RECLAIM } from '../policy/report.ts'
import { EIO, ETIMEDOUT, OK, resultName } from '../policy/result.ts'
import { type Halves, hex } from '../smmu/bits.ts'
import { POWER_STATES, type PowerState, type SmmuHardware } from '../smmu/hardware.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import * as R from '../smmu/registers.ts'
import type { Lag } from '../smmu/soft/options.ts'
import { SoftSmmu } from '../smmu/soft/softSmmu.ts'
import { TornFetches } from '../smmu/soft/tearing.ts'
import type { Outcome } from '../smmu/transaction.ts'
import { CpuCache } from './cpuCache.ts'
import { Devices } from './devices.ts'
import { El2 } from './el2.ts'
import { Feedback } from './feedback.ts'
import { leaveBehind } from './firmware.ts'
import { HostRegisters } from './hostRegisters.ts'
import { AttackMemory } from './memory.ts'
import { Oracle } from './oracle.ts'
import { Random } from './random.ts'
import { el2Range, framesOf, type HardwareOption, hotPages, idRegistersOf, type Setup, sidsOf } from './setup.ts'
import type { Access, Dma, El2Step, Interleaved, Meanwhile, Step, Store, Switch, Transfer } from './steps.ts'

/** Accesses of the hypervisor in one step; more is a loop without end. */
const MAX_ACCESSES = 100_000
/** Bytes that EL2 takes at a time. */
const MAX_TRANSFER = 2 ** 21
/** Polls of one wait: more than late hardware needs. */
const WAIT_POLLS = 256
/** GBPA.SHCFG: attributes as they come in. */
const GBPA_INCOMING = 1 << 12
/** The hypervisor's process is killed. */
class Killed extends Error {
  override readonly name = 'Killed'
}

/** A step that does not come to an end. */
class Endless extends Error {
  override readonly name = 'Endless'
}

/** Somebody who looks on. */
export interface Onlooker {
  /** The machine starts from nothing. */
  begin(): void
  /** The machine was reset. */
  reset(): void
  /** The host wrote a register, and the policy has decided. */
  wrote(step: Access): void
  /** The host read CMDQ_CONS. */
  readCons(smmu: number, value: number): void
  /** A device's access, with what it ended in. */
  accessed(step: Dma, outcome: Outcome): void
  /** An SMMU was switched to another state. `lost`: the host finds it reset. */
  switched(smmu: number, state: PowerState, lost: boolean): void
  /** After each step. */
  performed(step: Step): void
}

export class World {
  readonly setup: Setup
  readonly memory: AttackMemory
  /** Of the CPU that the hypervisor runs on, where SMMUs do not look into it. */
  readonly #cache: CpuCache | undefined
  readonly oracle: Oracle
  readonly feedback = new Feedback()
  readonly guard: PageGuard
  readonly smmus: readonly SoftSmmu[]
  readonly devices: Devices
  readonly host: readonly HostRegisters[]
  readonly machine: Machine
  policy: Policy
  /** Performed since the beginning. */
  readonly steps: Step[] = []
  /** What a `read` step read last. */
  readonly answer: Halves = { lo: 0, hi: 0 }
  /** Compares with an SMMU without a hypervisor, while the host behaves. */
  view: Onlooker | undefined
  /** Called at each access of the hypervisor, for those who explain a case. */
  onAccess: ((what: string) => void) | undefined

  readonly #factory: PolicyFactory
  readonly #context: PolicyContext
  readonly #draws = new Random(0)
  readonly #torn: TornFetches | undefined
  readonly #trap = newTrap()
  readonly #posts: (Post | undefined)[]
  /** What was carried out last, as long as nothing else is asked of the hypervisor. */
  #posted: { readonly smmu: number; readonly post: Post } | undefined
  readonly #late: boolean
  /** What keeps tables for the host, which devices share. */
  readonly #el2: El2 | undefined
  /** Pages that EL2 has given to VMs, and that devices may reach until the hypervisor has looked: page, VM. */
  readonly #taken = new Map<number, number>()
  /** EL2 keeps tables for its host. */
  #hasTables = false
  /** The hypervisor's successor has to read all of EL2's tables before EL2 goes on. */
  #untold = false
  /** EL2 waits for good: the machine does not go on. */
  #halted = false
  /** State as a server keeps it, while somebody may need it. */
  #kept: Uint8Array | undefined
  #keeping = false
  #stopped = false
  // The step that is being decided.
  #interleaved: Interleaved | undefined
  #accesses = 0
  /** Where the last access read memory; -1: it did something else. */
  #justRead = -1

  constructor(setup: Setup, factory: PolicyFactory) {
    this.setup = setup
    this.#factory = factory
    const has = (option: HardwareOption) => setup.hardware.includes(option)
    this.memory = new AttackMemory(setup.ram)
    this.#cache = has('noncoherent') ? new CpuCache(this.memory) : undefined
    this.guard = new PageGuard(setup.ram)
    const frames = framesOf(setup)
    this.oracle = new Oracle(new PageMap(setup.ram, setup.carveout, frames), this.memory, this.guard)
    const draws = this.#draws
    this.#torn = has('torn') ? new TornFetches(this.memory, values => draws.below(values)) : undefined
    this.#late = has('lag') || has('slow')
    const lag: Lag = {
      update: () => (has('lag') ? draws.below(12) : 0),
      early: () => draws.chance(50),
      command: () => (has('slow') && draws.chance(40) ? draws.below(6) : 0),
    }
    const id = idRegistersOf(setup)
    const places = setup.power === undefined ? [] : hotPages(setup)
    this.smmus = frames.map(
      (_, smmu) =>
        new SoftSmmu(this.memory, {
          id,
          caching: setup.caching,
          unguarded: has('unguarded'),
          unalignedQueues: has('unaligned'),
          ...(this.#late && { lag }),
          ...(this.#torn && { torn: this.#torn }),
          ...(setup.power && {
            gbpa: GBPA_INCOMING | (setup.resetsToAbort ? R.GBPA_ABORT : 0),
            unknown: () => draws.pick(places),
          }),
          onWrite: (what, address, length) => {
            this.oracle.smmuWrites(smmu, what, address, length)
            this.feedback.write(what.length, this.oracle.map.owner(address))
          },
          ...(setup.blocks && {
            onConflict: (ipa, cached, found) =>
              this.oracle.report(
                'tlb-conflict',
                `SMMU ${smmu}: a leaf of level ${cached} is cached for ${hex(ipa)}, tables have one of level ${found}; BBM level ${setup.bbml ?? 0}`,
              ),
          }),
          onAtcInvalidate: cmd => this.devices.invalidate(smmu, cmd),
        }),
    )
    this.devices = new Devices(this.smmus, this.oracle, this.feedback)
    this.host = frames.map(() => new HostRegisters())
    this.#posts = frames.map(() => undefined)
    this.#el2 = setup.shared === undefined ? undefined : this.#newEl2()
    const el2 = this.#el2
    this.machine = {
      memory: this.#policyMemory(),
      carveout: setup.carveout,
      smmus: frames.map((frame, i) => ({ ...frame, hardware: this.#hardware(i) })),
      devices: frames.flatMap((_, smmu) => sidsOf(setup).map(sid => ({ smmu, sid, name: `${sid}`, model: '' }))),
      guard: this.guard,
      ...(setup.power && {
        power: {
          resetsToAbort: setup.resetsToAbort === true,
          set: (smmu: number, state: PowerState) => {
            this.smmus[smmu]?.power(state)
            this.#accessed('power', smmu)
            return true
          },
        },
      }),
      ...(el2 && {
        el2: {
          watch: (page: number, on: boolean) => el2.watch(page, on),
          hostStage2: () => (this.#hasTables ? el2.registers : null),
        },
      }),
    }
    this.#context = {
      options: {
        ...{ until: setup.until, granule: setup.granule, waitPolls: WAIT_POLLS },
        ...(setup.blocks && { blocks: true }),
        ...(setup.power && { power: setup.power }),
        ...(setup.shared && { stage2: 'shared' as const, populate: setup.shared }),
      },
      report: this.feedback,
      persist: () => {
        if (this.#keeping) this.#keep()
      },
      clock: () => 0,
    }
    this.policy = factory(this.machine, this.#context)
  }

  // What the policy is given.

  #policyMemory(): GuestMemory {
    const { oracle } = this
    const cache = this.#cache
    const memory = cache ?? this.memory
    return {
      ram: memory.ram,
      read: (address, target, offset, length) => {
        oracle.hypervisorReads(address, length)
        const ok = memory.read(address, target, offset, length)
        this.#justRead = address
        this.#accessed('read', address)
        return ok
      },
      write: (address, source, offset, length) => {
        oracle.hypervisorWrites(address, length)
        if (this.#torn !== undefined && length <= 64 && length % 8 === 0) this.#torn.storing(address, length)
        const ok = memory.write(address, source, offset, length)
        this.#accessed('write', address)
        return ok
      },
      ...(cache !== undefined && {
        clean: (address: number, length: number) => {
          cache.clean(address, length)
          this.#accessed('clean', address)
        },
      }),
    }
  }

  #hardware(smmu: number): SmmuHardware {
    const soft = this.smmus[smmu]
    const far: Pick<SmmuHardware, 'post' | 'writeThenRead'> = {
      post: (offset, value, checkOffset, checkValue, answer) => {
        this.#posts[smmu] = { offset, value, checkOffset, checkValue, answer }
        return true
      },
      writeThenRead: (offset, value, readOffset, into) => {
        const ok = soft.write(offset, 4, value, 0) && soft.read(readOffset, 4, into)
        this.#accessed('register', offset)
        return ok
      },
    }
    return {
      read: (offset, size, into) => {
        const ok = soft.read(offset, size, into)
        this.#accessed('register', offset)
        return ok
      },
      write: (offset, size, lo, hi) => {
        const ok = soft.write(offset, size, lo, hi)
        this.#accessed('register', offset)
        return ok
      },
      ...(this.setup.posts && far),
    }
  }

  /** The hypervisor has accessed something: others get their turn. */
  #accessed(what: string, address: number): void {
    const n = ++this.#accesses
    if (this.onAccess !== undefined) this.onAccess(`${what} ${hex(address)}`)
    if (n > MAX_ACCESSES) throw new Endless(`more than ${MAX_ACCESSES} accesses in one step`)
    const plan = this.#interleaved
    if (plan === undefined) return
    if (what !== 'read') this.#justRead = -1
    if (plan.each !== undefined) for (const step of plan.each) this.#meanwhile(step)
    if (plan.during !== undefined) {
      for (const { access, steps } of plan.during) if (access === n) for (const step of steps) this.#meanwhile(step)
    }
    if (plan.dies === n) throw new Killed()
  }

  // The beginning.

  /** Everything as after power-on, then the policy's reset. `seed`: of what hardware does by chance. */
  restart(seed: number): void {
    this.#draws.seed(seed)
    this.steps.length = 0
    this.memory.clear()
    this.feedback.begin()
    this.devices.clear()
    this.oracle.begin()
    this.#reset()
    this.view?.begin()
  }

  #reset(): void {
    this.oracle.claims = false
    this.#cache?.clear()
    for (const smmu of this.smmus) smmu.reset()
    for (const registers of this.host) registers.reset()
    this.#posts.fill(undefined)
    this.#torn?.settleAll()
    leaveBehind(this.setup, this.memory, this.smmus)
    this.feedback.refusal = null
    this.#taken.clear()
    this.#halted = false
    this.#hasTables = false
    this.#el2?.disconnected()
    this.#begin(undefined)
    this.#attempt(() => this.#start())
    this.#end()
    this.oracle.map.reset()
    this.oracle.donations.length = 0
    const { facilities, partitions } = this.policy.inspect ?? {}
    this.oracle.share(partitions)
    this.oracle.claims = facilities?.has('stage2') === true && this.feedback.refusal === null
    if (this.#el2 !== undefined && !this.#stopped) this.#beginEl2(this.#el2)
    this.oracle.auditGuard()
  }

  /** A policy refuses a machine by saying so of an SMMU, or by stopping it: then nobody takes over. */
  #start(): void {
    this.#stopped = false
    try {
      this.policy.reset()
    } catch (error) {
      if ((error as Error).name !== 'HypFatal') throw error
      this.feedback.refusal = (error as Error).message
      this.#stopped = true
    }
  }

  /** Cleans of the hypervisor since the last call, and cache lines that they were about; of a coherent machine none. */
  takeCleaned(): { readonly operations: number; readonly lines: number } {
    const cache = this.#cache
    if (cache === undefined) return { operations: 0, lines: 0 }
    const taken = { operations: cache.cleans, lines: cache.cleanedLines }
    cache.cleans = cache.cleanedLines = 0
    return taken
  }

  /** The policy has stopped the machine: it is not for it. */
  get stopped(): boolean {
    return this.#stopped
  }

  /** EL2 waits for good: no further step does anything. */
  get halted(): boolean {
    return this.#halted
  }

  // Steps.

  /** Does one step. Findings are the oracle's. */
  perform(step: Step): void {
    if (this.#halted) return
    this.oracle.step = this.steps.length
    this.feedback.step = this.steps.length
    this.steps.push(step)
    switch (step.do) {
      case 'read':
      case 'write':
        this.#access(step)
        break
      case 'donate':
      case 'reclaim':
        this.#transfer(step)
        break
      case 'power':
        this.#switch(step)
        break
      case 'el2':
        if (this.#el2 !== undefined) this.#actEl2(this.#el2, step)
        break
      case 'store':
        if (this.#el2 !== undefined) this.#fault(this.#el2, step)
        this.#meanwhile(step)
        break
      case 'reset':
        this.feedback.what = -1
        this.#reset()
        this.view?.reset()
        break
      case 'take-over':
        this.feedback.what = -2
        this.#takeOver(step)
        break
      case 'settle':
        for (const smmu of this.smmus) smmu.step()
        break
      default:
        this.#meanwhile(step)
    }
    this.view?.performed(step)
  }

  #begin(step: Interleaved | undefined): void {
    this.#accesses = 0
    this.#justRead = -1
    this.#posted = undefined
    this.#interleaved = step !== undefined && (step.each ?? step.during ?? step.dies) !== undefined ? step : undefined
  }

  #end(): void {
    this.#interleaved = undefined
    this.#keeping = false
  }

  /** Lets the policy act. Returns false when its process was killed. */
  #attempt(act: () => void, taking = false): boolean {
    try {
      act()
      return true
    } catch (error) {
      if (error instanceof Killed) return false
      const { name, message } = error as Error
      // Without hardware that forgets nobody can go on from EL2's tables as they are.
      if (taking && this.#el2 !== undefined && (this.#isExcused || this.#tookShared)) {
        this.#halted = true
        return true
      }
      const words = message.replace(/0x[0-9a-f]+|\d+/g, 'N')
      const kind = error instanceof Endless ? 'endless' : `${taking ? 'take-over' : 'throws'} ${name}: ${words}`
      this.oracle.report(kind.slice(0, 120), `${name}: ${message}`)
      return true
    }
  }

  #access(step: Access): void {
    const { smmu, offset } = step
    const write = step.do === 'write'
    this.feedback.what = write ? offset : offset | 0x4000_0000
    if (write) {
      const host = this.host[smmu]
      if (host !== undefined) {
        if (offset === R.ARM_SMMU_CR0) this.feedback.cr0(host.cr0, step.lo)
        host.write(offset, step.lo, step.hi)
      }
    }
    if (!write && this.#answers(step)) {
      this.view?.readCons(smmu, this.answer.lo)
      return
    }
    if (step.dies !== undefined) this.#keep()
    this.#begin(step)
    if (!this.#attempt(() => this.#trapped(step))) {
      this.#succeed()
      const { dies: _, ...again } = step
      this.#begin(again)
      this.#attempt(() => this.#trapped(step))
    }
    this.#end()
    this.answer.lo = this.#trap.lo
    this.answer.hi = this.#trap.hi
    this.#carryOutPost(smmu)
    if (this.view === undefined) return
    if (write) this.view.wrote(step)
    else if (offset === R.ARM_SMMU_CMDQ_CONS) this.view.readCons(smmu, this.answer.lo)
  }

  #trapped(step: Access): void {
    const trap = this.#trap
    trap.seq++
    trap.smmu = step.smmu
    trap.write = step.do === 'write'
    trap.offset = step.offset
    trap.size = step.size
    trap.lo = trap.write ? step.lo : 0
    trap.hi = trap.write ? step.hi : 0
    trap.aborted = false
    this.policy.access(trap)
  }

  /** What was to go to the hardware with the answer to the trap. */
  #carryOutPost(smmu: number): void {
    const post = this.#posts[smmu]
    if (post === undefined) return
    this.#posts[smmu] = undefined
    const soft = this.smmus[smmu]
    soft.write(post.offset, 4, post.value, 0)
    const into = { lo: 0, hi: 0 }
    soft.read(post.checkOffset, 4, into)
    if (into.lo === post.checkValue) this.#posted = { smmu, post }
    else this.#attempt(() => this.policy.postMismatch?.(smmu))
  }

  /** Whether a read is answered by what was posted, without a trap. */
  #answers({ smmu, offset, size }: Access): boolean {
    const posted = this.#posted
    if (posted === undefined || posted.smmu !== smmu || posted.post.checkOffset !== offset || size !== 4) return false
    const { answer } = this
    this.smmus[smmu].read(offset, 4, answer)
    if (answer.lo !== posted.post.checkValue) return false
    answer.lo = posted.post.answer
    answer.hi = 0
    return true
  }

  #transfer(step: Transfer): void {
    const { base, size, vm } = step
    if (this.#el2 !== undefined) {
      this.#transferByEl2(this.#el2, step)
      return
    }
    const pages = this.policy.inspect?.pages
    const method = step.do === 'donate' ? 'donate' : 'reclaim'
    if (pages?.[method] === undefined) return
    this.feedback.what = -3
    this.feedback.lastTransfer = undefined
    if (step.dies !== undefined) this.#keep()
    if (method === 'reclaim') this.oracle.returning(base, size)
    let result: number = EIO
    this.#begin(step)
    const alive = this.#attempt(() => {
      result = this.policy.inspect?.pages?.[method]?.(base, size, vm) ?? EIO
    })
    if (!alive) {
      this.#begin(undefined)
      this.#succeed()
      // The successor has finished it, if it had begun, and told the outcome.
      const told = this.feedback.lastTransfer as Feedback['lastTransfer']
      const operation = method === 'donate' ? PAGE_DONATE : PAGE_RECLAIM
      result = told?.operation === operation && told.base === base && told.size === size ? told.result : EIO
    }
    this.#end()
    if (method === 'reclaim') this.oracle.reclaimed(base, size, vm, result === OK)
    else if (result === OK) this.oracle.donated(base, size, vm)
    else if (alive && (result === EIO || result === ETIMEDOUT)) this.#donationFailed(base, result)
  }

  #switch(step: Switch): void {
    const { smmu, state } = step
    const before = this.powerOf(smmu)
    if (before === null) return
    this.feedback.what = -4
    if (step.dies !== undefined) this.#keep()
    this.#begin(step)
    const alive = this.#attempt(() => {
      const result = this.policy.inspect?.power?.power(smmu, state)
      if (result !== undefined) this.feedback.cr0(result, 0x100 + POWER_STATES.indexOf(state))
    })
    if (!alive) {
      this.#begin(undefined)
      this.#succeed()
    }
    this.#end()
    const now = this.powerOf(smmu)
    if (now === before || now === null) return
    const lost = now === 'off' && this.setup.power === 'reshadow'
    if (lost) this.host[smmu]?.reset()
    this.view?.switched(smmu, now, lost)
  }

  /** As the policy has told the host; null: there is no such SMMU, or it cannot be switched. */
  powerOf(smmu: number): PowerState | null {
    return this.policy.inspect?.power?.powerState(smmu) ?? null
  }

  #donationFailed(base: number, result: number): void {
    if (this.#isExcused) return
    this.oracle.report(
      `donation-fails ${resultName(result)}`,
      `the donation of ${hex(base)} ends in ${resultName(result)}`,
    )
  }

  /** The hardware's state excuses what fails: it is not prompt, or stopped at a command. */
  get #isExcused(): boolean {
    if (this.#late || !this.oracle.claims) return true
    const into = { lo: 0, hi: 0 }
    return this.smmus.some(smmu => {
      smmu.read(R.ARM_SMMU_CMDQ_CONS, 4, into)
      return (into.lo & R.CMDQ_CONS_ERR) !== 0
    })
  }

  // EL2, whose tables devices share.

  #newEl2(): El2 {
    const { carveout } = this.setup
    const range = el2Range(this.setup)
    // Hypervisor memory, EL2's own, and what VMs are given most.
    const lures = [carveout.base, carveout.base + carveout.size - PAGE_SIZE, range.base, ...hotPages(this.setup)]
    return new El2(this.memory, range, lures, {
      stored: () => {
        this.#justRead = -1
        for (const step of this.#interleaved?.each ?? []) this.#meanwhile(step)
      },
      tlbi: () => this.#tell(false),
    })
  }

  /** EL2 begins to keep tables for its host. */
  #beginEl2(el2: El2): void {
    el2.begin()
    this.oracle.keepForEl2(el2.range)
    this.#hasTables = true
    this.#untold = true
    this.#begin(undefined)
    this.#tell(true)
    this.#end()
  }

  /**
   * EL2 waits until the hypervisor has looked: behind a TLBI, or when it leaves.
   * @param leaves whatever EL2 has taken is not reached any more
   */
  #tell(leaves: boolean): void {
    const el2 = this.#el2
    if (el2 === undefined || this.#halted) return
    const all = this.#untold
    const unclear = el2.unclear
    const pages = el2.look()
    let ok = true
    if (all || pages.length > 0) {
      this.#untold = false
      ok = false
      const look = (all: boolean) => {
        const change = { ...el2.registers, cpu: 0, time: 0, all, pages: all ? [] : pages }
        ok = this.policy.stage2Changed?.(change) ?? false
      }
      if (!this.#attempt(() => look(all))) {
        const { dies: _, ...plan } = this.#interleaved ?? {}
        this.#interleaved = undefined
        this.#succeed()
        this.#interleaved = plan
        this.#untold = false
        this.#attempt(() => look(true))
      }
    }
    if (!ok) {
      this.#halted = true
      if (!this.#isExcused && !this.#tookShared)
        this.oracle.report('el2-waits', 'EL2 is not let go on, though the hardware does all that it is told')
      return
    }
    if (leaves) el2.left()
    // What is not mapped is mapped ahead otherwise, and of what came and went between two looks nobody knows.
    if (!leaves && (this.setup.shared === 'ahead' || unclear)) return
    for (const [page, vm] of this.#taken) {
      // Hypervisor memory stays what it is, whatever EL2 takes it for.
      if (this.oracle.map.owner(page) === HOST) this.oracle.donated(page, PAGE_SIZE, vm)
    }
    this.#taken.clear()
  }

  /** The policy has said that EL2 took what SMMUs use without a second stage: then a machine has to stop. */
  get #tookShared(): boolean {
    const { warnings, step } = this.feedback
    return warnings.some(warned => warned.step === step && warned.code === 'HYP_EL2_TOOK_SHARED')
  }

  #actEl2(el2: El2, step: El2Step): void {
    const { what, address, vm, tlbi } = step
    this.feedback.what = -5
    if (step.dies !== undefined) this.#keep()
    this.#begin(step)
    if (what === 'touch') el2.touch(address)
    else if (what === 'take') this.#take(el2, address, vm, tlbi)
    else if (what === 'give') this.#give(el2, address)
    else if (what === 'merge' || what === 'unmap') el2.merge(address, what === 'merge', tlbi)
    else if (what === 'unmap-gib') el2.unmap(address, tlbi)
    else this.#tell(true)
    this.#end()
  }

  #transferByEl2(el2: El2, step: Transfer): void {
    const { base, size, vm } = step
    this.feedback.what = -3
    if (step.dies !== undefined) this.#keep()
    this.#begin(step)
    const end = base + Math.min(size, MAX_TRANSFER)
    for (let page = base - (base % PAGE_SIZE); page < end && !this.#halted; page += PAGE_SIZE) {
      if (step.do === 'donate') this.#take(el2, page, vm, true)
      else if (el2.owner(page) === vm) this.#give(el2, page)
    }
    this.#tell(true)
    this.#end()
  }

  /** A page becomes a VM's, as soon as no device can reach it any more. */
  #take(el2: El2, page: number, vm: number, tlbi: boolean): void {
    if (this.memory.isRam(page) && el2.take(page, vm, tlbi)) this.#taken.set(page, vm)
    // What had no TLBI, or none that mattered, is the VM's at the next look.
  }

  #give(el2: El2, page: number): void {
    const owner = this.oracle.map.owner(page)
    if (el2.owner(page) <= 0) return
    this.#taken.delete(page)
    if (owner === el2.owner(page)) {
      this.memory.fillPage(page, 0)
      el2.give(page)
      this.oracle.reclaimed(page, PAGE_SIZE, owner, true)
    } else el2.give(page)
  }

  /** A CPU stores to pages that EL2 may not have mapped yet: it does, and leaves. */
  #fault(el2: El2, { address, words, times = 1 }: Store): void {
    this.#begin(undefined)
    const end = address + 4 * words.length * times
    for (let page = address - (address % PAGE_SIZE); page < end; page += PAGE_SIZE) el2.touch(page)
    this.#tell(true)
    this.#end()
  }

  #keep(): void {
    this.#keeping = true
    this.#kept = this.policy.state?.checkpoint().slice()
  }

  #takeOver(step: Interleaved): void {
    this.#keep()
    this.#begin(step)
    if (!this.#succeed()) {
      this.#begin(undefined)
      this.#succeed()
    }
    this.#end()
    this.oracle.auditGuard()
  }

  /** Another process goes on from what was kept. Returns false when it was killed as well. */
  #succeed(): boolean {
    const kept = this.#kept
    this.#keeping = false
    this.#posts.fill(undefined)
    this.#el2?.disconnected()
    if (kept === undefined || this.#stopped) return true
    return this.#attempt(() => {
      const next = this.#factory(this.machine, this.#context)
      this.policy = next
      next.state?.restore(kept)
      next.state?.resume?.()
      // EL2's next look is at everything, as QEMU has it.
      if (this.#el2 !== undefined) this.#untold = true
    }, true)
  }

  // What others do.

  #meanwhile(step: Meanwhile): void {
    switch (step.do) {
      case 'store':
        this.#store(step.address, step.words, step.times)
        break
      case 'rewrite':
        if (this.#justRead >= 0 && this.#justRead % 4 === 0) this.#store(this.#justRead, step.words)
        break
      case 'dma': {
        const outcome = this.devices.access(step, this.#interleaved !== undefined)
        if (outcome !== undefined && !this.#breaks) this.view?.accessed(step, outcome)
        break
      }
      case 'page-request':
        this.devices.request(step)
        break
    }
  }

  /** Blocks may be broken now: without more than BBM level 0, what the host has a right to is aborted meanwhile. */
  get #breaks(): boolean {
    const { blocks, bbml = 0 } = this.setup
    return blocks === true && bbml === 0 && this.#interleaved !== undefined && !('offset' in this.#interleaved)
  }

  /** A vCPU stores, where it can: guarded pages are out of its reach. */
  #store(address: number, words: readonly number[], times = 1): void {
    const { length } = words
    let open = true
    for (let i = 0; i < length * times; i++) {
      const at = address + 4 * i
      // EL2 keeps its host away by its stage 2.
      if (i === 0 || at % PAGE_SIZE === 0)
        open = !this.guard.has(at) && (this.#el2 === undefined || this.oracle.map.hostMay(at))
      if (open) this.memory.setWord(at, words[i % length])
    }
  }
}

interface Post {
  readonly offset: number
  readonly value: number
  readonly checkOffset: number
  readonly checkValue: number
  readonly answer: number
}
