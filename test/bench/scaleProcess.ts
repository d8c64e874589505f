// SPDX-License-Identifier: Apache-2.0
/** One measurement of how cost grows (scale.ts), in a process of its own; prints a number as JSON. */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { FileMemory } from '../../server/machine/fileMemory.ts'
import type { PolicyOptions, PowerMode } from '../../server/policy/policy.ts'
import { CMDQ_OP_CFGI_STE, cmdSync } from '../../server/smmu/commands.ts'
import * as r from '../../server/smmu/registers.ts'
import { BenchMachine, MiB, RAM_BASE } from './machine.ts'

const GiB = 1024 * MiB
const PAGE = 4096
const CMDQ = RAM_BASE + 8 * MiB
const STRTAB = RAM_BASE + 16 * MiB
const STES = RAM_BASE + 17 * MiB
const LOG2SIZE = 16
const SID_BITS = 10
/** StreamIDs that one L1 descriptor covers, log2. */
const SPLIT = 8
const TWO_LEVEL = 1 << 16
const STE_BYTES = 64
const CS_SEV = 2
const VM = 1

/** A machine on a sparse file in shared memory. */
function start(
  ram: number,
  carveout: number,
  options: PolicyOptions = {},
): { readonly machine: BenchMachine; readonly memory: FileMemory } {
  const folder = mkdtempSync('/dev/shm/cosim-bench-')
  const fd = openSync(join(folder, 'ram'), 'wx+', 0o600)
  rmSync(folder, { recursive: true })
  process.on('exit', () => closeSync(fd))
  ftruncateSync(fd, ram)
  const memory = new FileMemory(fd, [{ base: RAM_BASE, size: ram, offset: 0 }])
  return { memory, machine: new BenchMachine(memory, carveout, options) }
}

/** Linux's queue and a 2-level stream table of so many bypass entries, switched on. */
function enable({ machine, memory }: ReturnType<typeof start>, streams = 2 ** SID_BITS): void {
  const ste = new BigUint64Array([0x9n, 0n, 0n, 0n, 0n, 0n, 0n, 0n])
  const table = new Uint8Array(STE_BYTES * 2 ** SID_BITS)
  for (let sid = 0; sid < streams; sid++) table.set(new Uint8Array(ste.buffer), sid * STE_BYTES)
  memory.write(STES, table, 0, table.length)
  const l1 = new BigUint64Array(2 ** (SID_BITS - SPLIT))
  for (let i = 0; i < l1.length; i++) l1[i] = BigInt(STES + i * STE_BYTES * 2 ** SPLIT + SPLIT + 1)
  memory.write(STRTAB, new Uint8Array(l1.buffer), 0, l1.byteLength)
  bringUp(machine)
  machine.drain()
}

/** The registers that Linux's driver writes for it. */
function bringUp(machine: BenchMachine): void {
  machine.write(r.ARM_SMMU_STRTAB_BASE, STRTAB, 8)
  machine.write(r.ARM_SMMU_STRTAB_BASE_CFG, TWO_LEVEL | (SPLIT << 6) | SID_BITS)
  machine.write(r.ARM_SMMU_CMDQ_BASE, CMDQ + LOG2SIZE, 8)
  machine.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
  machine.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN | r.CR0_SMMUEN)
}

const measures: Readonly<Record<string, (size: number) => number>> = {
  /** ms a GiB for the tables of so many GiB. */
  ram(gib) {
    const { machine } = start(gib * GiB, 64 * MiB * Math.max(1, gib / 4))
    machine.hypervisor.reset()
    if (machine.hypervisor.idmap === null) throw new Error('there is no idmap')
    machine.drain()
    machine.hypervisor.reset()
    return machine.hypervisor.idmap.state.buildUs / 1000 / gib
  },
  /** ms for the tables of so many GiB in blocks, hypervisor memory apart from them. */
  blocks(gib) {
    const { machine } = start(gib * GiB + 256 * MiB, 256 * MiB, { blocks: true })
    machine.drain()
    machine.hypervisor.reset()
    if (machine.hypervisor.idmap === null) throw new Error('there is no idmap')
    return machine.hypervisor.idmap.state.buildUs / 1000
  },
  /** Pages of 4 KiB in all tables of so many GiB, and in blocks. */
  pages: gib => tablePages(gib, false),
  blockPages: gib => tablePages(gib, true),
  /** µs for the first CFGI_STE of each of so many streams, a CMD_SYNC with each. */
  streams(count) {
    const parts = start(GiB, 64 * MiB)
    enable(parts)
    const words = new Uint32Array(8 * count)
    for (let sid = 0; sid < count; sid++) {
      words[8 * sid] = CMDQ_OP_CFGI_STE
      words[8 * sid + 1] = sid
      words[8 * sid + 2] = 1
      cmdSync(words, CS_SEV, 8 * sid + 4)
    }
    parts.memory.write(CMDQ, new Uint8Array(words.buffer), 0, words.byteLength)
    const begin = performance.now()
    for (let sid = 1; sid <= count; sid++) parts.machine.write(r.ARM_SMMU_CMDQ_PROD, 2 * sid)
    const time = performance.now() - begin
    parts.machine.check()
    return (time * 1000) / count
  },
  /** µs a page for so many MiB. */
  donate: mib => donations(mib, {}),
  donateBlocks: mib => donations(mib, { blocks: true }),
  /** µs for a page that is given and comes back: with blocks a split and a merge each time. */
  turn: count => turns(count, {}),
  turnBlocks: count => turns(count, { blocks: true }),
  turnBroken: count => turns(count, { blocks: true, bbm: 0 }),
  /** µs for an SMMU to be switched off and on, its state lost, with so many streams. */
  cycleKeep: streams => cycles(streams, 'keep'),
  cycleReshadow: streams => cycles(streams, 'reshadow'),
}

const CYCLES = 300

function cycles(streams: number, power: PowerMode): number {
  const parts = start(GiB, 64 * MiB, { power })
  enable(parts, streams)
  const { machine } = parts
  const { hypervisor } = machine
  if (hypervisor.streamCount() !== streams) throw new Error(`${hypervisor.streamCount()} streams`)
  let time = 0
  for (let cycle = 0; cycle < CYCLES; cycle++) {
    const begin = performance.now()
    const off = hypervisor.power(0, 'off')
    hypervisor.checkpoint()
    const on = hypervisor.power(0, 'on')
    if (power === 'reshadow') bringUp(machine)
    hypervisor.checkpoint()
    time += performance.now() - begin
    if (off !== 0 || on !== 0) throw new Error(`cycle ${cycle}: ${off}, ${on}`)
    machine.drain()
  }
  return (time * 1000) / CYCLES
}

/** Pages of 4 KiB in all tables of so many GiB. */
function tablePages(gib: number, blocks: boolean): number {
  const { machine } = start(gib * GiB + 256 * MiB, 256 * MiB, { blocks })
  const { idmapInfo } = machine.hypervisor
  if (idmapInfo === null || idmapInfo.unmapped > 0) throw new Error('hypervisor memory is too small')
  return idmapInfo.pages
}

function donations(mib: number, options: PolicyOptions): number {
  const parts = start(2 * GiB, 64 * MiB, options)
  enable(parts)
  const { hypervisor } = parts.machine
  const first = RAM_BASE + 512 * MiB
  const pages = (mib * MiB) / PAGE
  const begin = performance.now()
  for (let page = 0; page < pages; page++) {
    const result = hypervisor.donate(first + page * PAGE, PAGE, VM)
    if (result !== 0) throw new Error(`page ${page}: ${result}`)
    // What QEMU would be sent.
    hypervisor.checkpoint()
    if (page % 1024 === 0) parts.machine.drain()
  }
  return ((performance.now() - begin) * 1000) / pages
}

/** One page after the other, each in a block of its own. */
function turns(count: number, options: PolicyOptions): number {
  const parts = start(2 * GiB, 64 * MiB, options)
  enable(parts)
  const { hypervisor } = parts.machine
  const first = RAM_BASE + 512 * MiB
  let time = 0
  for (let turn = 0; turn < count; turn++) {
    const page = first + (turn % 128) * 2 * MiB + 5 * PAGE
    const begin = performance.now()
    const given = hypervisor.donate(page, PAGE, VM)
    hypervisor.checkpoint()
    const back = hypervisor.reclaim(page, PAGE, VM)
    hypervisor.checkpoint()
    time += performance.now() - begin
    if (given !== 0 || back !== 0) throw new Error(`turn ${turn}: ${given}, ${back}`)
    if (turn % 256 === 0) parts.machine.drain()
  }
  return (time * 1000) / count
}

const [kind, size] = process.argv.slice(2)
console.log(JSON.stringify(measures[kind](Number(size))))
