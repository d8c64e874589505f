// SPDX-License-Identifier: Apache-2.0
import { signal } from '@preact/signals'
import { useEffect, useState } from 'preact/hooks'
import type { StartOptions } from '../../api/schemas/lifecycle.ts'
import { type ApiError, call } from './api.ts'
import { useLoaded } from './hooks.ts'
import { go, info, machineState } from './store.ts'
import { attempt, Button, Dialog, Failure, Field, Tag } from './ui.tsx'

export const startDialog = signal(false)

type Action = 'pause' | 'resume' | 'reset' | 'power-off' | 'kill'

/** What can be done with the machine now. */
export function MachineControls() {
  const [asking, setAsking] = useState(false)
  const state = machineState.value
  const does = (action: Action, done?: string) => () => void attempt(() => call(`POST /machine/${action}`), done)
  if (state === 'off' || state === undefined) {
    return (
      <Button
        tone="primary"
        disabled={state === undefined}
        onClick={() => {
          startDialog.value = true
        }}
      >
        Start
      </Button>
    )
  }
  const alive = state === 'running' || state === 'paused'
  return (
    <>
      {state === 'paused' ? (
        <Button onClick={does('resume')}>Resume</Button>
      ) : (
        <Button onClick={does('pause')} disabled={state !== 'running'}>
          Pause
        </Button>
      )}
      <Button onClick={does('reset', 'The machine was reset')} disabled={!alive}>
        Reset
      </Button>
      <Button onClick={does('power-off', 'The power button was pressed')} disabled={!alive}>
        Power off
      </Button>
      <Button tone="danger" onClick={() => setAsking(true)} disabled={state === 'ending'}>
        Kill
      </Button>
      <Dialog title="Kill the machine?" open={asking} close={() => setAsking(false)}>
        <div class="form ask">
          <p>QEMU ends at once. What the guest has not written to its disks is lost; the recording is kept.</p>
          <div class="buttons">
            <Button local autofocus onClick={() => setAsking(false)}>
              Cancel
            </Button>
            <Button
              tone="danger"
              onClick={() => {
                setAsking(false)
                does('kill')()
              }}
            >
              Kill the machine
            </Button>
          </div>
        </div>
      </Dialog>
    </>
  )
}

/** Policies that the series' prefixes and the idmap are of. */
export const OF_PKVM: ReadonlySet<string> = new Set(['pkvm', 'full'])

/** Policies that can switch SMMUs: pKVM's, and maybe one of one's own. */
const SWITCHES: ReadonlySet<string> = new Set(['pkvm', 'own'])

export function StartDialog() {
  const [refused, setRefused] = useState<ApiError | undefined>()
  const close = () => {
    startDialog.value = false
    setRefused(undefined)
  }
  const words = info.value
  const [policy, setPolicy] = useState('pkvm')
  const [until, setUntil] = useState('nested')
  const [kernel, setKernel] = useState('6.12')
  const [memory, setMemory] = useState('1G')
  const [smp, setSmp] = useState('1')
  const [run, setRun] = useState('shell')
  const [bench, setBench] = useState('0')
  const [append, setAppend] = useState('')
  const [el2, setEl2] = useState(false)
  const [breakFirst, setBreakFirst] = useState(false)
  const [panicOnWarn, setPanicOnWarn] = useState(false)
  const [oracle, setOracle] = useState(false)
  const [blocks, setBlocks] = useState(false)
  const [bbm, setBbm] = useState('')
  const [power, setPower] = useState('')
  const [quirks, setQuirks] = useState<readonly string[]>([])
  const [image, setImage] = useState('')
  const [initrd, setInitrd] = useState('')
  const [nvme, setNvme] = useState(true)
  const [devices, setDevices] = useState<readonly string[]>([])
  const [smmus, setSmmus] = useState('1')
  const [slots, setSlots] = useState('0')
  const [translate, setTranslate] = useState('hardware')
  const [faults, setFaults] = useState<readonly string[]>([])
  const [seed, setSeed] = useState('1')
  const start = () => {
    close()
    // The words are those that the server offers.
    const body = {
      policy,
      until,
      // EL2 has a kernel of its own by default.
      ...(el2 ? { el2: 'pkvm' } : { kernel }),
      ...(image && { image }),
      ...(initrd && { initrd }),
      nvme,
      translate,
      ...(devices.length > 0 && { devices }),
      smmus: Number(smmus),
      slots: Number(slots),
      ...(faults.length > 0 && { faults, seed: Number(seed) }),
      memory,
      smp: Number(smp),
      run,
      bench: Number(bench),
      breakFirst,
      panicOnWarn,
      oracle,
      ...(blocks && OF_PKVM.has(policy) && { blocks, ...(bbm !== '' && { bbm: Number(bbm) }) }),
      ...(power !== '' && SWITCHES.has(policy) && { power }),
      ...(quirks.length > 0 && { quirks }),
      ...(append && { append }),
    } as StartOptions
    // A kernel may have to be fetched first, so it is not waited for; what was refused can be changed.
    call('POST /machine/start', { body }).catch((error: ApiError) => {
      setRefused(error)
      startDialog.value = true
    })
  }
  return (
    <Dialog title="Start a machine" open={startDialog.value} close={close}>
      <form
        class="form two"
        onSubmit={e => {
          e.preventDefault()
          start()
        }}
      >
        <Field label="Policy">
          <select value={policy} onChange={e => setPolicy(e.currentTarget.value)}>
            {(words?.policies ?? ['pkvm']).map(p => (
              <option key={p}>{p}</option>
            ))}
          </select>
        </Field>
        <Field label="Until" hint="prefix of the series">
          <select value={until} disabled={!OF_PKVM.has(policy)} onChange={e => setUntil(e.currentTarget.value)}>
            {(words?.stages ?? ['nested']).map(s => (
              <option key={s}>{s}</option>
            ))}
          </select>
        </Field>
        <Field label="Kernel">
          <select value={kernel} disabled={el2} onChange={e => setKernel(e.currentTarget.value)}>
            {(words?.kernels ?? ['6.12']).map(k => (
              <option key={k}>{k}</option>
            ))}
          </select>
        </Field>
        <Field label="Run" hint="a shell to work in, or the checks of boot">
          <select value={run} onChange={e => setRun(e.currentTarget.value)}>
            <option value="shell">shell</option>
            <option value="workload">workload</option>
          </select>
        </Field>
        <Field label="Memory">
          <select value={memory} onChange={e => setMemory(e.currentTarget.value)}>
            {['512M', '1G', '2G', '4G', '8G'].map(m => (
              <option key={m}>{m}</option>
            ))}
          </select>
        </Field>
        <Field label="vCPUs">
          <input type="number" min="1" max="16" value={smp} onInput={e => setSmp(e.currentTarget.value)} />
        </Field>
        <Field label="Timed reads" hint="of each disk, with the workload">
          <input type="number" min="0" max="100000" value={bench} onInput={e => setBench(e.currentTarget.value)} />
        </Field>
        <Field label="Kernel command line" hint="added to it">
          <input value={append} placeholder="iommu.passthrough=1" onInput={e => setAppend(e.currentTarget.value)} />
        </Field>
        <label class="check full">
          <input type="checkbox" checked={el2} onChange={e => setEl2(e.currentTarget.checked)} />
          pKVM at EL2; the workload ends with attacks on a protected VM
        </label>
        <label class="check">
          <input type="checkbox" checked={breakFirst} onChange={e => setBreakFirst(e.currentTarget.checked)} />
          hold the first trap
        </label>
        <label class="check">
          <input type="checkbox" checked={panicOnWarn} onChange={e => setPanicOnWarn(e.currentTarget.checked)} />
          end at the first unexpected warning
        </label>
        <label class="check full">
          <input type="checkbox" checked={oracle} onChange={e => setOracle(e.currentTarget.checked)} />
          oracle: end where a device reaches what it must not
        </label>
        <Field label="Power" hint="SMMUs can be switched off and on; what the host finds after a loss of state">
          <select value={power} disabled={!SWITCHES.has(policy)} onChange={e => setPower(e.currentTarget.value)}>
            <option value="">always on</option>
            <option value="reshadow">reshadow: an SMMU that was reset</option>
            <option value="keep">keep: all as it left it</option>
          </select>
        </Field>
        <Blocks possible={OF_PKVM.has(policy)} blocks={blocks} setBlocks={setBlocks} bbm={bbm} setBbm={setBbm} />
        <details class="full more">
          <summary>Own files, devices, translation</summary>
          <div class="form two">
            <FileChoice
              label="Own kernel"
              hint="modules: lib/modules/RELEASE beside it"
              none="Debian’s, as above"
              value={image}
              change={setImage}
            />
            <FileChoice
              label="Own initramfs"
              hint="with the modules it needs"
              none="the usual one, with its modules"
              value={initrd}
              change={setInitrd}
            />
            <Field label="Translation" hint="who translates for devices">
              <select value={translate} onChange={e => setTranslate(e.currentTarget.value)}>
                {(words?.translate ?? ['hardware']).map(mode => (
                  <option key={mode}>{mode}</option>
                ))}
              </select>
            </Field>
            <Field label="SMMUs" hint="each in front of a root complex of its own">
              <input type="number" min="1" max="4" value={smmus} onInput={e => setSmmus(e.currentTarget.value)} />
            </Field>
            <Field label="Free slots" hint="for devices that are plugged in later">
              <input type="number" min="0" max="4" value={slots} onInput={e => setSlots(e.currentTarget.value)} />
            </Field>
            <fieldset class="full checks">
              <legend>More devices</legend>
              {(words?.devices ?? []).map(({ name, what }) => (
                <label class="check" key={name} title={what}>
                  <input
                    type="checkbox"
                    checked={devices.includes(name)}
                    onChange={e =>
                      setDevices(e.currentTarget.checked ? [...devices, name] : devices.filter(n => n !== name))
                    }
                  />
                  {name}
                </label>
              ))}
            </fieldset>
            <label class="check">
              <input type="checkbox" checked={nvme} onChange={e => setNvme(e.currentTarget.checked)} />
              NVMe controller
            </label>
          </div>
        </details>
        <FaultChoice chosen={faults} change={setFaults} seed={seed} setSeed={setSeed} />
        <QuirkChoice policy={policy} change={setQuirks} />
        <Button
          local
          class="small full"
          onClick={() => {
            close()
            go('runs')
          }}
        >
          Recordings of earlier machines: open, replay, compare
        </Button>
        {refused !== undefined && (
          <div class="full">
            <Failure error={refused} />
          </div>
        )}
        <div class="buttons full">
          <Button local onClick={close}>
            Cancel
          </Button>
          <Button tone="primary" type="submit">
            Start
          </Button>
        </div>
      </form>
    </Dialog>
  )
}

/** A file of the folder that the server offers. */
function FileChoice(props: {
  label: string
  hint: string
  none: string
  value: string
  change: (name: string) => void
}) {
  const images = info.value?.images ?? []
  return (
    <Field label={props.label} hint={images.length === 0 ? 'serve --images <folder> offers some' : props.hint}>
      <select value={props.value} disabled={images.length === 0} onChange={e => props.change(e.currentTarget.value)}>
        <option value="">{props.none}</option>
        {images.map(name => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </Field>
  )
}

/** Faults of the catalogue that are armed from the first trap on. */
function FaultChoice(props: {
  chosen: readonly string[]
  change: (faults: readonly string[]) => void
  seed: string
  setSeed: (seed: string) => void
}) {
  const { chosen, change } = props
  const open = startDialog.value
  const loaded = useLoaded(async () => (open ? await call('GET /faults/catalogue') : []), 0, [open])
  const left = (loaded.data ?? []).filter(({ name }) => !chosen.includes(name))
  return (
    <details class="full more">
      <summary>Faults from the first trap on {chosen.length > 0 && <Tag tone="bad">{chosen.length}</Tag>}</summary>
      <div class="form two">
        <Field label="Add a fault">
          <select value="" onChange={e => change([...chosen, e.currentTarget.value])}>
            <option value="">of the catalogue</option>
            {left.map(({ name, summary }) => (
              <option key={name} value={name}>
                {name}: {summary}
              </option>
            ))}
          </select>
        </Field>
        <Field label="Seed">
          <input
            type="number"
            min="0"
            max="4294967295"
            value={props.seed}
            onInput={e => props.setSeed(e.currentTarget.value)}
          />
        </Field>
        <div class="buttons wrap full">
          {chosen.map(name => (
            <Button
              local
              key={name}
              class="small"
              aria-label={`Without ${name}`}
              onClick={() => change(chosen.filter(n => n !== name))}
            >
              {name} ✕
            </Button>
          ))}
        </div>
      </div>
    </details>
  )
}

/** RAM in blocks of the second stage, and how far hardware lets them be split and merged. */
export function Blocks(props: {
  possible: boolean
  blocks: boolean
  setBlocks: (on: boolean) => void
  bbm: string
  setBbm: (level: string) => void
}) {
  const { possible, blocks } = props
  return (
    <div class="full blocks-choice">
      <label class="check">
        <input
          type="checkbox"
          checked={blocks}
          disabled={!possible}
          onChange={e => props.setBlocks(e.currentTarget.checked)}
        />
        RAM in blocks of the idmap instead of pages
      </label>
      <label class="check">
        BBM level
        <select value={props.bbm} disabled={!possible || !blocks} onChange={e => props.setBbm(e.currentTarget.value)}>
          <option value="">any</option>
          {['0', '1', '2'].map(level => (
            <option key={level}>{level}</option>
          ))}
        </select>
      </label>
    </div>
  )
}

/** Known defects of a policy, to be switched on; nothing where it has none. */
export function QuirkChoice({ policy, change }: { policy: string; change: (quirks: readonly string[]) => void }) {
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set())
  // Of another policy they mean nothing.
  const offered = (info.value?.quirks ?? []).filter(quirk => quirk.policy === policy)
  const quirks = offered.map(({ name }) => name).filter(name => chosen.has(name))
  useEffect(() => change(quirks), [quirks.join(' ')])
  if (offered.length === 0) return null
  const toggle = (name: string, on: boolean) => {
    const next = new Set(chosen)
    if (on) next.add(name)
    else next.delete(name)
    setChosen(next)
  }
  return (
    <details class="full quirks">
      <summary>
        Known defects of the posted series {quirks.length > 0 && <Tag tone="bad">{quirks.length} on</Tag>}
      </summary>
      {offered.map(({ name, versions, effect }) => (
        <label class="check" key={name}>
          <input type="checkbox" checked={chosen.has(name)} onChange={e => toggle(name, e.currentTarget.checked)} />
          <span>
            <b class="mono">{name}</b> <span class="muted">{versions}</span>
            <br />
            {effect}
          </span>
        </label>
      ))}
    </details>
  )
}
