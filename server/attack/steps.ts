// SPDX-License-Identifier: Apache-2.0
/**
 * What a hostile host, its devices and the world around them do to a machine, one step at a time. Everything is a plain number, so that a
 * list of steps is the same whenever it is performed.
 */
import { hex, hex64 } from '../smmu/bits.ts'
import type { PowerState } from '../smmu/hardware.ts'
import { registerName } from '../smmu/registers.ts'

/** What happens while a trap or an operation is being decided, counted by the hypervisor's accesses to memory and registers. */
export interface Interleaved {
  /** After the access of this number, from 1. */
  readonly during?: readonly { readonly access: number; readonly steps: readonly Meanwhile[] }[]
  /** After each access. */
  readonly each?: readonly Meanwhile[]
  /** After that access the hypervisor's process is killed; its successor goes on from the state that was kept, and decides once more. */
  readonly dies?: number
}

/** Host memory changes. `words`: 32 bits each; `times`: so often, one behind the other. */
export interface Store {
  readonly do: 'store'
  readonly address: number
  readonly words: readonly number[]
  readonly times?: number
}

/** The host changes what the hypervisor has just read, if it was memory: what is read twice is another the second time. */
export interface Rewrite {
  readonly do: 'rewrite'
  readonly words: readonly number[]
}

/**
 * A device of the host accesses memory: untranslated, by a translation that its ATC asks the SMMU for or kept, or marked as
 * Translated without having asked.
 */
export interface Dma {
  readonly do: 'dma'
  readonly smmu: number
  readonly sid: number
  /** Absent: without a SubstreamID. */
  readonly ssid?: number
  readonly address: number
  readonly write: boolean
  readonly how: 'untranslated' | 'atc' | 'translated'
}

/** A PRI page request. */
export interface Page {
  readonly do: 'page-request'
  readonly smmu: number
  readonly sid: number
  readonly address: number
  readonly last: boolean
}

/** What other CPUs and devices can do while the hypervisor is busy. */
export type Meanwhile = Store | Rewrite | Dma | Page

/** A vCPU's access to a register frame. */
export interface Access extends Interleaved {
  readonly do: 'read' | 'write'
  readonly smmu: number
  readonly offset: number
  readonly size: number
  readonly lo: number
  readonly hi: number
  /** The hypervisor may want this otherwise, and then says so. */
  readonly wrong?: true
}

/** Pages change hands. */
export interface Transfer extends Interleaved {
  readonly do: 'donate' | 'reclaim'
  readonly base: number
  readonly size: number
  readonly vm: number
}

/** The machine is reset, the hypervisor's process is replaced by a successor, or the hardware is given time. */
export interface Event extends Interleaved {
  readonly do: 'reset' | 'take-over' | 'settle'
}

/** The host asks for an SMMU to be switched off or on. */
export interface Switch extends Interleaved {
  readonly do: 'power'
  readonly smmu: number
  readonly state: PowerState
}

export const EL2_ACTIONS = ['touch', 'take', 'give', 'merge', 'unmap', 'unmap-gib', 'leave'] as const

/**
 * EL2 does something to the tables of its host: a CPU touched an address, a page becomes a VM's or the host's again, a last-level table becomes a
 * block or nothing, two levels of tables become nothing. It stays there until `leave`.
 */
export interface El2Step extends Interleaved {
  readonly do: 'el2'
  readonly what: (typeof EL2_ACTIONS)[number]
  readonly address: number
  /** Of `take`. */
  readonly vm: number
  /** It executes a TLBI for what it breaks; else it uses nothing of that again before it has left. */
  readonly tlbi: boolean
}

export type Step = Meanwhile | Access | Transfer | Switch | El2Step | Event

const POWER_WORDS: Readonly<Record<PowerState, string>> = {
  ...{ on: 'is switched on', off: 'is switched off, and loses its state' },
  retained: 'is switched off, and keeps its registers',
}

/** A step in one line. */
export function describeStep(step: Step): string {
  const text = describe(step)
  const more: string[] = []
  if ('each' in step && step.each)
    more.push(`after each access of the hypervisor: ${step.each.map(describe).join('; ')}`)
  if ('during' in step) {
    for (const { access, steps } of step.during ?? []) {
      more.push(`after its access ${access}: ${steps.map(describe).join('; ')}`)
    }
  }
  if ('dies' in step && step.dies !== undefined) more.push(`the hypervisor is killed after its access ${step.dies}`)
  return more.length > 0 ? `${text} [${more.join(' | ')}]` : text
}

function describe(step: Step): string {
  switch (step.do) {
    case 'store': {
      const times = step.times === undefined ? '' : `, ${step.times} times`
      return `store ${hex(step.address)} = ${step.words.map(word => hex(word)).join(' ')}${times}`
    }
    case 'rewrite':
      return `store to what was just read ${step.words.map(word => hex(word)).join(' ')}`
    case 'dma': {
      const ssid = step.ssid === undefined ? '' : ` ssid ${hex(step.ssid)}`
      const how = step.how === 'untranslated' ? '' : step.how === 'atc' ? ' through its ATC' : ' marked as Translated'
      return `SMMU ${step.smmu}: stream ${hex(step.sid)}${ssid} ${step.write ? 'writes' : 'reads'} ${hex(step.address)}${how}`
    }
    case 'page-request':
      return `SMMU ${step.smmu}: stream ${hex(step.sid)} requests page ${hex(step.address)}${step.last ? ', last' : ''}`
    case 'read':
    case 'write': {
      const size = step.size === 4 || step.size === 8 ? '' : ` (${step.size} bytes)`
      const value = step.do === 'write' ? ` = ${step.size === 8 ? hex64(step.lo, step.hi) : hex(step.lo)}` : ''
      return `SMMU ${step.smmu}: ${step.do} ${registerName(step.offset)}${size}${value}`
    }
    case 'donate':
    case 'reclaim':
      return `${step.do} ${hex(step.base)}, ${step.size} bytes, VM ${step.vm}`
    case 'el2': {
      const how = step.tlbi || step.what === 'leave' ? '' : ', without a TLBI'
      return step.what === 'leave' ? 'EL2 leaves' : `EL2: ${step.what} ${hex(step.address)}${how}`
    }
    case 'power':
      return `SMMU ${step.smmu}: ${POWER_WORDS[step.state]}`
    case 'reset':
      return 'the machine is reset'
    case 'take-over':
      return 'a successor takes over from the hypervisor'
    case 'settle':
      return 'the hardware completes what it is at'
  }
}
