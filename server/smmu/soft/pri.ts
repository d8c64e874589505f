// SPDX-License-Identifier: Apache-2.0
/** Page requests of PCIe devices (IHI 0070 chapter 8, IHI 0070 section 4.5.2): the PRI queue and the responses to its requests. */
import { getField } from '../bits.ts'
import {
  CMDQ_0_SSV,
  CMDQ_PRI_0_SID,
  CMDQ_PRI_0_SSID,
  CMDQ_PRI_1_GRPID,
  CMDQ_PRI_1_RESP,
  CMDQ_PRI_1_RESP_DENY,
  CMDQ_PRI_1_RESP_SUCC,
} from '../commands.ts'
import type { Features } from '../features.ts'
import type { GuestMemory } from '../memory.ts'
import { encodePageRequest, isStopMarker, type PageRequest, PRIQ_ENT_WORDS } from '../pageRequest.ts'
import * as Q from '../queue.ts'
import { CR0_PRIQEN, CR0_SMMUEN, GERROR_PRIQ_ABT_ERR, Q_OVERFLOW_FLAG } from '../registers.ts'
import { NO_SSID } from '../transaction.ts'
import type { GlobalErrors } from './gerror.ts'
import type { Interrupts } from './msi.ts'
import type { SoftSmmuOptions } from './options.ts'
import type { QueueRegisters } from './queueRegisters.ts'
import type { ControlRegister } from './update.ts'

/** ResponseCode of a PRG Response message (IHI 0070 section 8.3). */
export const PRG_SUCCESS = 0
export const PRG_INVALID_REQUEST = 1
export const PRG_FAILURE = 0xf

export class PriQueue {
  readonly #features: Features
  readonly #registers: QueueRegisters
  readonly #cr0: ControlRegister
  readonly #errors: GlobalErrors
  readonly #interrupts: Interrupts
  readonly #memory: GuestMemory
  readonly #options: SoftSmmuOptions
  readonly #ppar: (request: PageRequest) => boolean | undefined
  readonly #words = new Uint32Array(PRIQ_ENT_WORDS)
  readonly #bytes = new Uint8Array(this.#words.buffer)

  /** @param ppar STE.PPAR of the requester; undefined when its STE cannot be used */
  constructor(
    features: Features,
    registers: QueueRegisters,
    cr0: ControlRegister,
    errors: GlobalErrors,
    interrupts: Interrupts,
    memory: GuestMemory,
    options: SoftSmmuOptions,
    ppar: (request: PageRequest) => boolean | undefined,
  ) {
    this.#features = features
    this.#registers = registers
    this.#cr0 = cr0
    this.#errors = errors
    this.#interrupts = interrupts
    this.#memory = memory
    this.#options = options
    this.#ppar = ppar
  }

  /** A page request, or a Stop Marker, arrives. */
  request(arrived: PageRequest): void {
    const request = this.#features.ssidSize === 0 ? { ...arrived, ssid: NO_SSID } : arrived
    const enabled = CR0_PRIQEN | CR0_SMMUEN
    if ((this.#cr0.value & enabled) !== enabled || this.#errors.active(GERROR_PRIQ_ABT_ERR)) {
      this.#respond(request, NO_SSID, PRG_FAILURE)
      return
    }
    const queue = this.#registers
    const { log2size } = queue
    const overflow = ((queue.prod ^ queue.cons) & Q_OVERFLOW_FLAG) !== 0
    if (overflow || Q.queueSpace(queue.prod, queue.cons, log2size) === 0) {
      if (!overflow) queue.prod = (queue.prod ^ Q_OVERFLOW_FLAG) >>> 0
      this.#discard(request)
      return
    }
    const address = queue.address(queue.prod)
    encodePageRequest(request, this.#words)
    this.#options.onWrite?.('page-request', address, Q.PRIQ_ENTRY_SIZE)
    if (!this.#memory.write(address, this.#bytes, 0, Q.PRIQ_ENTRY_SIZE)) {
      this.#errors.activate(GERROR_PRIQ_ABT_ERR)
      this.#respond(request, NO_SSID, PRG_FAILURE)
      return
    }
    const wasEmpty = Q.queueEmpty(queue.prod, queue.cons, log2size)
    queue.prod = ((queue.prod & Q_OVERFLOW_FLAG) | Q.queueAdvance(queue.prod, log2size)) >>> 0
    if (this.#interrupts.lastOnly ? request.last : wasEmpty) this.#errors.interrupt(this.#interrupts.priq)
  }

  /** The queue overflows (IHI 0070 section 8.1): the last request of a group is answered as if it had been served. */
  #discard(request: PageRequest): void {
    if (!request.last) return
    if (this.#interrupts.lastOnly) this.#errors.interrupt(this.#interrupts.priq)
    if (request.ssid === NO_SSID || this.#features.pps) {
      this.#respond(request, request.ssid, PRG_SUCCESS)
      return
    }
    if (isStopMarker(request)) return
    const ppar = this.#ppar(request)
    if (ppar === undefined) this.#respond(request, NO_SSID, PRG_FAILURE)
    else this.#respond(request, ppar ? request.ssid : NO_SSID, PRG_SUCCESS)
  }

  /** An automatic response; there is none to a Stop Marker (IHI 0070 section 8.2). */
  #respond(request: PageRequest, ssid: number, code: number): void {
    if (isStopMarker(request)) return
    this.#options.onPrgResponse?.({ sid: request.sid, ssid, prgIndex: request.prgIndex, code, automatic: true })
  }

  /** CMD_PRI_RESP, its Resp not Reserved; ignored while the SMMU is off (IHI 0070 section 4.5.2). */
  respond(cmd: Uint32Array, base: number): void {
    if (this.#options.onPrgResponse === undefined || (this.#cr0.value & CR0_SMMUEN) === 0) return
    const resp = getField(cmd, CMDQ_PRI_1_RESP, base)
    // Without PASIDs, SSV = 1 behaves as 0, one of the behaviours that IHI 0070 section 4.5.2 permits.
    const pasid = this.#features.ssidSize > 0 && getField(cmd, CMDQ_0_SSV, base) === 1
    this.#options.onPrgResponse({
      sid: getField(cmd, CMDQ_PRI_0_SID, base),
      ssid: pasid ? getField(cmd, CMDQ_PRI_0_SSID, base) : NO_SSID,
      prgIndex: getField(cmd, CMDQ_PRI_1_GRPID, base),
      code:
        resp === CMDQ_PRI_1_RESP_SUCC ? PRG_SUCCESS : resp === CMDQ_PRI_1_RESP_DENY ? PRG_FAILURE : PRG_INVALID_REQUEST,
      automatic: false,
    })
  }
}
